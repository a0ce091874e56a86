use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use halo_policy::{Digest, Sandbox, Setting};
use halo_runtime::{Config, PolicyEntry, cluster, policies};
use owo_colors::OwoColorize;

use crate::commands::status::observe;
use crate::options::{Global, ReachOptions};
use crate::output::{self, Output};

/// List schedulers and predictors, and put them in force
///
/// Policies are WebAssembly components. A scheduler says who computes which neuron groups, and whom a round waits for; a
/// predictor says how much each group will matter, before it is computed. docs/guides/policies.md shows how to write one.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Which policies there are, and which are in force
    ///
    /// Without --cluster these are the policies that come with the program and those of this machine's policy folder. With it,
    /// those of every node.
    #[command(after_help = "Examples:
  halo policy list
  halo policy list --cluster home")]
    List {
        /// The cluster's name
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,

        #[command(flatten)]
        network: ReachOptions,
    },
    /// Put a policy in force on every node, while tokens flow
    ///
    /// Each node compiles the component and tries it beside the one in force; it takes over between two rounds. A node that
    /// refuses it says why, and stays with what it has. Nodes that join later take over what the cluster has.
    #[command(after_help = "Examples:
  halo policy activate --cluster home scheduler-halo
  halo policy activate --cluster home ./my-scheduler.wasm --set budget=0.05")]
    Activate {
        /// A policy's name, the beginning of its digest, or a component's file
        policy: String,

        /// A setting for the policy; may be given several times
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<Setting>,

        /// The cluster's name
        #[arg(long, value_name = "NAME")]
        cluster: String,

        #[command(flatten)]
        network: ReachOptions,
    },
}

impl Policy {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        match self {
            Self::List {
                cluster: None,
                network: _,
            } => list_here(global, output),
            Self::List {
                cluster: Some(cluster),
                network,
            } => {
                let mut config = global.config()?;
                network.apply(&mut config, Some(&cluster));
                list(&config, output).await
            }
            Self::Activate {
                policy,
                settings,
                cluster,
                network,
            } => {
                let mut config = global.config()?;
                network.apply(&mut config, Some(&cluster));
                activate(&policy, &settings, &config, output).await
            }
        }
    }
}

fn list_here(global: &Global, output: &Output) -> Result<ExitCode> {
    let entries = policies::store(&global.config()?.policy).list()?;
    if output.json() {
        output.line(&entries)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|e| {
            let origin = match &e.origin {
                halo_policy::Origin::Builtin => "built in".to_owned(),
                halo_policy::Origin::File(path) => path.display().to_string(),
            };
            vec![
                e.name.clone(),
                e.digest.short(),
                output::bytes(e.size as u64),
                origin,
            ]
        })
        .collect();
    anstream::print!("{}", output::table(&rows));
    Ok(ExitCode::SUCCESS)
}

async fn list(config: &Config, output: &Output) -> Result<ExitCode> {
    let fabric = observe(config).await?;
    let lists = cluster::policies(&fabric).await;
    fabric.close().await;
    if output.json() {
        let nodes: Vec<_> = lists
            .iter()
            .map(|(node, list)| match list {
                Ok(list) => serde_json::json!({ "node": node, "sequence": list.sequence, "policies": list.policies }),
                Err(error) => serde_json::json!({ "node": node, "error": error.to_string() }),
            })
            .collect();
        output.line(&nodes)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (node, list) in &lists {
        anstream::println!("{}", node.bold());
        match list {
            Ok(list) => anstream::print!(
                "{}",
                output::table(&list.policies.iter().map(row).collect::<Vec<_>>())
            ),
            Err(error) => anstream::println!("  {error}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(entry: &PolicyEntry) -> Vec<String> {
    let mark = if entry.active { "*" } else { " " };
    let digest = entry.digest.map_or_else(String::new, |d| d.short());
    let faults = if entry.faults > 0 {
        format!("{} faults", entry.faults)
    } else {
        String::new()
    };
    vec![
        format!("{mark} {}", entry.name),
        entry.kind.to_string(),
        digest,
        entry.origin.clone(),
        faults,
    ]
}

async fn activate(
    policy: &str,
    settings: &[Setting],
    config: &Config,
    output: &Output,
) -> Result<ExitCode> {
    let path = Path::new(policy);
    let (name, bytes) = if path.extension().is_some_and(|e| e == "wasm") {
        let bytes = std::fs::read(path)
            .with_context(|| format!("cannot read the component {}", path.display()))?;
        let name = path
            .file_stem()
            .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        (name, bytes)
    } else {
        let stored = policies::store(&config.policy).get(policy)?;
        (stored.name, stored.bytes.into_owned())
    };
    // What no node could use is refused before any is asked.
    Sandbox::new(config.policy.limits.clone())?.compile(&name, &bytes)?;
    let fabric = observe(config).await?;
    let answers =
        cluster::activate(&fabric, &name, Digest::of(&bytes), Some(&bytes), settings).await;
    fabric.close().await;
    let failed = answers.values().filter(|a| a.is_err()).count();
    if output.json() {
        let nodes: Vec<_> = answers
            .iter()
            .map(|(node, answer)| match answer {
                Ok(kind) => serde_json::json!({ "node": node, "kind": kind, "active": name }),
                Err(error) => serde_json::json!({ "node": node, "error": error.to_string() }),
            })
            .collect();
        output.line(&nodes)?;
    } else {
        for (node, answer) in &answers {
            match answer {
                Ok(kind) => {
                    anstream::println!("{} {node}: {kind} {} in force", "✓".green(), name.bold())
                }
                Err(error) => anstream::println!("{} {error}", "✗".red()),
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn setting(text: &str) -> Result<Setting, String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok(Setting {
        key: key.into(),
        value: value.into(),
    })
}
