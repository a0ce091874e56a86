use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use halo_policy::Digest;
use halo_runtime::{policies, rollout};
use owo_colors::OwoColorize;

use super::{ClusterOptions, file, report};
use crate::options::Global;
use crate::output::Output;

/// Give a component to every node, which keeps it; nothing comes into force
///
/// Each node checks that it is whole and that it is a policy, and saves it in its policy folder under the file's name. An
/// earlier version there is kept, and is found by its digest.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy push --cluster home my-scheduler.wasm
  halo policy activate --cluster home my-scheduler")]
pub(crate) struct Push {
    /// The component's file, whose name without .wasm is the policy's
    #[arg(value_name = "FILE")]
    file: String,

    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Push {
    pub(super) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let Some((name, component)) = file(&self.file)? else {
            bail!("{} is no component: its name must end in .wasm", self.file);
        };
        // What no node could use is refused before any is asked.
        policies::sandbox(&global.config()?.policy)?.compile(&name, &component)?;
        let fabric = self.cluster.observe(global).await?;
        let answers = rollout::push(&fabric, &name, &component).await;
        fabric.close().await;
        let digest = Digest::of(&component);
        let done = format!("keeps {} {}", name.bold(), digest.short());
        let told = serde_json::json!({ "name": name, "digest": digest });
        report(&answers, &done, &told, output)
    }
}
