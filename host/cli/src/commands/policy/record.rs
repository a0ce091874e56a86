use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use halo_runtime::rollout;

use super::ClusterOptions;
use crate::options::Global;
use crate::output::Output;

/// Save what a leader's policies were asked last: its placement and the rounds and hidden states of one pass
///
/// For `halo policy test`, which puts the same questions to another policy. Rounds are asked about in relaxed synchronisation
/// only. Hidden states say something about the text that was being written.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy record --cluster home rounds.json")]
pub(crate) struct Record {
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Record {
    pub(super) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let fabric = self.cluster.observe(global).await?;
        let recordings = rollout::recordings(&fabric).await;
        fabric.close().await;
        let answered = recordings
            .into_iter()
            .filter_map(|(node, recording)| Some((node, recording.ok()?)));
        let longest = answered.max_by_key(|(_, r)| (r.rounds.len(), r.states.len()));
        let Some((node, recording)) = longest.filter(|(_, r)| r.placing.is_some()) else {
            bail!(
                "no node of cluster `{}` has been asked anything: it must be leading a generation, as `halo run` does",
                self.cluster.cluster
            );
        };
        let text = serde_json::to_string(&recording)?;
        std::fs::write(&self.file, text)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        let (rounds, states) = (recording.rounds.len(), recording.states.len());
        if output.json() {
            output
                .line(&serde_json::json!({ "node": node, "rounds": rounds, "states": states }))?;
        } else {
            output.note(format_args!(
                "{rounds} rounds and {states} hidden states of {node} in {}",
                self.file.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
