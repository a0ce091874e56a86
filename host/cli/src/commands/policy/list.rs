use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_fabric::Fabric;
use halo_policy::Origin;
use halo_runtime::{PolicyEntry, policies, rollout};
use owo_colors::OwoColorize;

use super::MaybeCluster;
use crate::options::Global;
use crate::output::{self, Output};

/// Which policies there are, and which are in force
///
/// Without --cluster these are the policies that come with the program and those of this machine's policy folder. With it,
/// those of every node, with a mark at those in force, and how often each has failed there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy list
  halo policy list --cluster home")]
pub(crate) struct List {
    #[command(flatten)]
    cluster: MaybeCluster,
}

impl List {
    pub(super) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        match self.cluster.observe(global).await? {
            Some(fabric) => everywhere(fabric, output).await,
            None => here(global, output),
        }
    }
}

fn here(global: &Global, output: &Output) -> Result<ExitCode> {
    let entries = policies::store(&global.config()?.policy).list()?;
    if output.json() {
        output.line(&entries)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|e| {
            let origin = match &e.origin {
                Origin::Builtin => "built in".to_owned(),
                Origin::File(path) => path.display().to_string(),
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

async fn everywhere(fabric: Fabric, output: &Output) -> Result<ExitCode> {
    let lists = rollout::lists(&fabric).await;
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
    vec![
        format!("{mark} {}", entry.name),
        entry.kind.to_string(),
        digest,
        entry.origin.clone(),
        output::faults(entry.faults),
    ]
}
