use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use halo_fabric::NodeId;
use halo_runtime::cluster;
use halo_runtime::packages::{Giver, push};
use indicatif::{MultiProgress, ProgressBar};
use owo_colors::OwoColorize;

use crate::commands::status::observe;
use crate::model_path;
use crate::options::{Global, ReachOptions, size};
use crate::output::{self, Output};
use crate::progress;

/// Give a package to every worker of a cluster, which then computes with it
///
/// It travels in pieces, each checked, and behind everything else on the network. What has come is kept: where a node, the
/// network or this command is interrupted, the next push goes on from there, and other nodes that have the package give it too.
/// A generation with another model goes on without the workers that change theirs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo model push --cluster home tinyllama
  halo model push --cluster home --rate 2MB --node pi-3 tinyllama")]
pub(crate) struct Push {
    /// Model package: a folder, or the name of one in ~/.local/share/halo/models [default: tiny]
    model: Option<PathBuf>,

    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: String,

    /// Only to this node; may be given several times
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<NodeId>,

    /// Send no more than this in a second, to all of them together, such as 2MB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rate: Option<u64>,

    #[command(flatten)]
    network: ReachOptions,
}

impl Push {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        self.network.apply(&mut config, Some(&self.cluster));
        let package = model_path::open(self.model.as_deref(), &config)?;
        let fabric = observe(&config).await?;
        let spinner = progress::spinner(output, &format!("reading {}", package.name()));
        let giver = Giver::new(fabric.clone(), package.clone(), self.rate);
        let wanted = giver.offer().await.map_err(anyhow::Error::msg)?;
        let _giving = giver.serve().await?;
        spinner.finish_and_clear();

        let profiles = cluster::profiles(&fabric).await;
        let workers = profiles.into_values().filter_map(Result::ok);
        let workers = workers.filter(|p| p.serves).map(|p| p.node);
        let workers = workers
            .filter(|node| self.nodes.is_empty() || self.nodes.contains(node))
            .collect::<BTreeSet<_>>();
        if let Some(missing) = self.nodes.iter().find(|node| !workers.contains(node)) {
            bail!("there is no worker {missing} in cluster `{}`", self.cluster);
        }
        if workers.is_empty() {
            bail!(
                "nobody in cluster `{}` computes for others. {}",
                self.cluster,
                cluster::advice(&config.network)
            );
        }
        let bars = MultiProgress::new();
        let bars: BTreeMap<&NodeId, ProgressBar> = workers
            .iter()
            .map(|node| (node, bars.add(progress::bar(output, node.as_str(), 0))))
            .collect();
        let mut tell = |node: &NodeId, done, total| {
            if let Some(bar) = bars.get(node) {
                bar.set_length(total);
                bar.set_position(done);
            }
        };
        let answers = push(&fabric, &wanted, workers.clone(), &mut tell).await;
        bars.values().for_each(ProgressBar::finish_and_clear);
        fabric.close().await;

        if output.json() {
            let nodes: Vec<_> = answers
                .iter()
                .map(|(node, answer)| match answer {
                    Ok(()) => serde_json::json!({ "node": node, "serves": package.name() }),
                    Err(error) => serde_json::json!({ "node": node, "error": error.to_string() }),
                })
                .collect();
            output.line(&nodes)?;
        } else {
            let bytes = output::bytes(package.weight_bytes());
            for (node, answer) in &answers {
                match answer {
                    Ok(()) => anstream::println!(
                        "{} {node}: serves {} ({bytes})",
                        "✓".green(),
                        package.name().bold()
                    ),
                    Err(error) => anstream::println!("{} {error}", "✗".red()),
                }
            }
        }
        Ok(if answers.values().all(Result::is_ok) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
