pub(super) mod nodes;
pub(super) mod plan;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use halo_fabric::{Fabric, Mode};
use halo_runtime::{Config, cluster, fabric_config};
use owo_colors::OwoColorize;

use crate::options::{Global, ReachOptions};
use crate::output::{self, Output};

/// Who is in a cluster, and what they can do
///
/// For each node: whether it computes for others (a worker) or only leads, its processor's architecture and threads, how many
/// neuron groups it computes in a second, how much memory it gives to them, how much of what it was asked to compute it has loaded,
/// the beginning of its model's identity, and its temperature, if it tells. Nodes with the same identity can work together.
///
/// With --plan, of each node that leads what it has planned: each node's share of the neuron groups and of their importance, the
/// way to it and back (without computing) with its spread and loss, the memory it uses, when its part of a round is expected, and
/// why it has that part.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo status --cluster home
  halo status --cluster home --plan
  halo status --cluster home --connect 192.168.1.20:7447")]
pub(crate) struct Status {
    /// The cluster's name [default: halo]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// What the nodes that lead have planned, and why
    #[arg(long)]
    plan: bool,

    #[command(flatten)]
    network: ReachOptions,
}

impl Status {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        self.network.apply(&mut config, self.cluster.as_deref());
        let fabric = observe(&config).await?;
        if self.plan {
            let plans = cluster::plans(&fabric).await;
            fabric.close().await;
            return plan::print(&plans, output);
        }
        let (profiles, loading) =
            tokio::join!(cluster::profiles(&fabric), cluster::loading(&fabric));
        fabric.close().await;
        // A node of an older version does not know.
        let loading = |node| loading.get(node)?.as_ref().ok().copied();
        if output.json() {
            let nodes: Vec<_> = profiles
                .iter()
                .map(|(node, profile)| match profile {
                    Ok(profile) => {
                        let mut line = serde_json::json!(profile);
                        line["loading"] = serde_json::json!(loading(node));
                        line
                    }
                    Err(error) => serde_json::json!({ "node": node, "error": error.to_string() }),
                })
                .collect();
            output.line(&nodes)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = vec![nodes::HEAD.map(String::from).to_vec()];
        for (node, profile) in &profiles {
            rows.push(match profile {
                Ok(profile) => {
                    let role = if profile.serves { "worker" } else { "leader" };
                    nodes::row(profile, role, loading(node))
                }
                Err(error) => vec![node.to_string(), error.to_string()],
            });
        }
        let table = output::table(&rows);
        let (head, body) = table.split_once('\n').unwrap_or((&table, ""));
        anstream::println!("{}", head.dimmed());
        anstream::print!("{body}");
        let known = profiles.values().flatten();
        if let Some(note) = mixed(known.map(|p| p.architecture.as_str())) {
            output.note(note.dimmed());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What to know of a cluster whose nodes have different kinds of processors.
fn mixed<'a>(architectures: impl Iterator<Item = &'a str>) -> Option<String> {
    let kinds: BTreeSet<&str> = architectures.collect();
    (kinds.len() > 1).then(|| {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        format!(
            "processors of different kinds ({}) round in different ways: the words may depend on which nodes compute",
            kinds.join(", ")
        )
    })
}

/// Joins the network to ask questions, without being a member.
///
/// # Errors
///
/// The network cannot be opened, or nobody is there.
pub(crate) async fn observe(config: &Config) -> Result<Fabric> {
    let mut config = config.clone();
    // Several people may ask at once from one machine, and a node may run on it under its own name.
    config.name = Some(format!("observer-{}", std::process::id()));
    config.network.listen.clear();
    config.testing.loss = None;
    let fabric = Fabric::open(fabric_config(&config)?).await?;
    let mut members = fabric.members();
    // Each address is a node's, and announces it as soon as it is reached; a router announces whom it knows.
    let expected = match config.network.mode {
        Mode::Peer | Mode::Router => config.network.connect.len().max(1),
        Mode::Client => 1,
    };
    // Whoever has not come by then is not there.
    let _ = tokio::time::timeout(
        Duration::from_secs(5),
        members.wait_for(|m| m.len() >= expected),
    )
    .await;
    let nobody = members.borrow().is_empty();
    if nobody {
        fabric.close().await;
        bail!(
            "found nobody in cluster `{}` within 5 s. {}",
            config.network.cluster,
            cluster::advice(&config.network)
        );
    }
    // Those that answer a multicast a moment later.
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(fabric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_cluster_is_told() {
        assert_eq!(mixed(["aarch64", "aarch64"].into_iter()), None);
        let note = mixed(["x86_64", "aarch64", "x86_64"].into_iter()).unwrap();
        assert!(note.contains("(aarch64, x86_64)"), "{note}");
    }
}
