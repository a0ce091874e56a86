use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use halo_policy::{Digest, Setting};
use halo_runtime::{PolicyEntry, cluster, policies};
use owo_colors::OwoColorize;

use crate::commands::status::observe;
use crate::options::{Global, NetworkOptions};
use crate::output::{self, Output};

/// List the schedulers and predictors of a cluster, and put them in force.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Which policies there are, and which are in force; of this machine, or with --cluster of every node
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Put a policy in force on every node, while tokens flow
    #[command(after_help = "Examples:
  halo policy activate --cluster home scheduler-halo
  halo policy activate --cluster home ./my-scheduler.wasm --set budget=0.05")]
    Activate {
        /// A policy's name, the beginning of its digest, or a component's file
        policy: String,

        /// A setting for the policy; may be given several times
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<Setting>,

        #[command(flatten)]
        target: Target,
    },
}

/// Which cluster.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    #[command(flatten)]
    network: NetworkOptions,
}

impl Policy {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        match self {
            Self::List { target } if target.cluster.is_none() => list_here(global, output),
            Self::List { target } => list(&target, global, output).await,
            Self::Activate {
                policy,
                settings,
                target,
            } => activate(&policy, &settings, &target, global, output).await,
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

async fn list(target: &Target, global: &Global, output: &Output) -> Result<ExitCode> {
    let mut config = global.config()?;
    target.network.apply(&mut config, target.cluster.as_deref());
    let fabric = observe(&config).await?;
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
    target: &Target,
    global: &Global,
    output: &Output,
) -> Result<ExitCode> {
    let mut config = global.config()?;
    if target.cluster.is_none() {
        bail!(
            "which cluster? Give its name with --cluster; `[policy]` in the configuration says what a node begins with"
        );
    }
    target.network.apply(&mut config, target.cluster.as_deref());
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
    let fabric = observe(&config).await?;
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
