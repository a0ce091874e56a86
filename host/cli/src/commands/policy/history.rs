use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_policy::{Change, Kind};
use halo_runtime::rollout;
use owo_colors::OwoColorize;

use super::ClusterOptions;
use crate::options::Global;
use crate::output::{self, Output};

/// What has been in force on every node since it started, and why it changed
///
/// The last of each kind is in force now. Faults are calls without a usable result while a policy was in force.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy history --cluster home")]
pub(crate) struct History {
    #[command(flatten)]
    cluster: ClusterOptions,
}

impl History {
    pub(super) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let fabric = self.cluster.observe(global).await?;
        let states = rollout::states(&fabric).await;
        fabric.close().await;
        if output.json() {
            let nodes: Vec<_> = states
                .iter()
                .map(|(node, state)| match state {
                    Ok(state) => serde_json::json!({
                        "node": node,
                        "sequence": state.sequence,
                        "scheduler": state.scheduler,
                        "predictor": state.predictor,
                    }),
                    Err(error) => serde_json::json!({ "node": node, "error": error.to_string() }),
                })
                .collect();
            output.line(&nodes)?;
            return Ok(ExitCode::SUCCESS);
        }
        for (node, state) in &states {
            anstream::println!("{}", node.bold());
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    anstream::println!("  {error}");
                    continue;
                }
            };
            let rows: Vec<_> = [Kind::Scheduler, Kind::Predictor]
                .into_iter()
                .flat_map(|kind| state.history(kind).iter().map(move |c| row(kind, c)))
                .collect();
            anstream::print!("{}", output::table(&rows));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn row(kind: Kind, change: &Change) -> Vec<String> {
    let settings: Vec<String> = change
        .settings
        .iter()
        .map(|s| format!("{}={}", s.key, s.value))
        .collect();
    vec![
        format!("  {kind}"),
        change.name.clone(),
        change.digest.map_or_else(String::new, |d| d.short()),
        settings.join(" "),
        format!("{} ago", output::age(change.seconds_ago)),
        change.cause.to_string(),
        output::faults(change.faults),
    ]
}
