use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_policy::Kind;
use halo_runtime::rollout;
use owo_colors::OwoColorize;

use super::{ClusterOptions, report};
use crate::options::Global;
use crate::output::Output;

/// Go back on every node to what was in force before
///
/// With the settings that it had. Going back twice leads to the policy before that. As with `activate`, every node tries it
/// first, and all stay with what they have if one refuses.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy rollback --cluster home scheduler
  halo policy rollback --cluster home scheduler --to 6caece520a9f")]
pub(crate) struct Rollback {
    /// What is to go back: scheduler or predictor
    kind: Kind,

    /// Go back to this one, by its name or the beginning of its digest; `halo policy history` shows which there were
    #[arg(long, value_name = "POLICY")]
    to: Option<String>,

    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Rollback {
    pub(super) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let fabric = self.cluster.observe(global).await?;
        let outcome = rollout::roll_back(&fabric, self.kind, self.to.as_deref()).await;
        fabric.close().await;
        let (choice, answers) = outcome?;
        let done = format!("back to {} {}", choice.kind, choice.name.bold());
        let told = serde_json::json!({ "kind": choice.kind, "active": choice.name, "digest": choice.digest });
        report(&answers, &done, &told, output)
    }
}
