mod activate;
mod history;
mod inspect;
mod list;
mod new;
mod push;
mod record;
mod rollback;
mod test;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use halo_fabric::Fabric;
use halo_policy::Setting;
use halo_runtime::rollout::Answers;
use owo_colors::OwoColorize;

use crate::commands::status::observe;
use crate::options::{Global, ReachOptions};
use crate::output::Output;

/// List schedulers and predictors, give them to every node, put them in force, go back, and write your own
///
/// Policies are WebAssembly components. A scheduler says who computes which neuron groups, and whom a round waits for; a
/// predictor says how much each group will matter, before it is computed. docs/guides/policies.md shows how to write one.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    List(list::List),
    Push(push::Push),
    Activate(activate::Activate),
    Rollback(rollback::Rollback),
    History(history::History),
    Inspect(inspect::Inspect),
    Record(record::Record),
    New(new::New),
    Test(test::Test),
}

impl Policy {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        match self {
            Self::List(command) => command.execute(global, output).await,
            Self::Push(command) => command.execute(global, output).await,
            Self::Activate(command) => command.execute(global, output).await,
            Self::Rollback(command) => command.execute(global, output).await,
            Self::History(command) => command.execute(global, output).await,
            Self::Inspect(command) => command.execute(global, output).await,
            Self::Record(command) => command.execute(global, output).await,
            Self::New(command) => command.execute(output),
            Self::Test(command) => command.execute(global, output),
        }
    }
}

/// The cluster whose policies are meant.
#[derive(Debug, Args)]
struct ClusterOptions {
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: String,

    #[command(flatten)]
    network: ReachOptions,
}

impl ClusterOptions {
    /// Joins the cluster's network, without being a member.
    async fn observe(&self, global: &Global) -> Result<Fabric> {
        let mut config = global.config()?;
        self.network.apply(&mut config, Some(&self.cluster));
        observe(&config).await
    }
}

/// The cluster whose policies are meant, or this machine.
#[derive(Debug, Args)]
struct MaybeCluster {
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    #[command(flatten)]
    network: ReachOptions,
}

impl MaybeCluster {
    /// Joins the cluster's network, without being a member; nothing if this machine is meant.
    async fn observe(&self, global: &Global) -> Result<Option<Fabric>> {
        let Some(cluster) = &self.cluster else {
            return Ok(None);
        };
        let mut config = global.config()?;
        self.network.apply(&mut config, Some(cluster));
        observe(&config).await.map(Some)
    }
}

/// A component's file and the policy's name, which is the file's, if `policy` is one.
fn file(policy: &str) -> Result<Option<(String, Vec<u8>)>> {
    let path = Path::new(policy);
    if path.extension().is_none_or(|e| e != "wasm") {
        return Ok(None);
    }
    let component = std::fs::read(path)
        .with_context(|| format!("cannot read the component {}", path.display()))?;
    let name = path.file_stem().unwrap_or_default();
    Ok(Some((name.to_string_lossy().into_owned(), component)))
}

fn setting(text: &str) -> Result<Setting, String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok(Setting::new(key, value))
}

/// Says what came of something at each node. `done` is what a node that did it says, and `told` what programs read of it.
fn report(
    answers: &Answers<()>,
    done: &str,
    told: &serde_json::Value,
    output: &Output,
) -> Result<ExitCode> {
    if output.json() {
        let nodes: Vec<_> = answers
            .iter()
            .map(|(node, answer)| {
                let mut line = match answer {
                    Ok(()) => told.clone(),
                    Err(error) => serde_json::json!({ "error": error.to_string() }),
                };
                line["node"] = node.as_str().into();
                line
            })
            .collect();
        output.line(&nodes)?;
    } else {
        for (node, answer) in answers {
            match answer {
                Ok(()) => anstream::println!("{} {node}: {done}", "✓".green()),
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
