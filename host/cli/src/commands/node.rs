use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use owo_colors::OwoColorize;

use crate::model_path;
use crate::options::{Global, ModelOption, NetworkOptions, ResourceOptions, TestingOptions};
use crate::output::{self, Output};
use crate::progress;

/// Compute for others: join a cluster as a worker
///
/// A worker needs the same model package on its disk as the leader. It keeps nothing of a generation that it could not lose:
/// stop it whenever you like.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo node --cluster home
  halo node --cluster home --listen 192.168.1.11:7447 --no-scouting")]
pub(crate) struct Node {
    /// The cluster's name [default: halo]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    #[command(flatten)]
    model: ModelOption,

    #[command(flatten)]
    resources: ResourceOptions,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    testing: TestingOptions,
}

impl Node {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        self.network.apply(&mut config, self.cluster.as_deref());
        self.testing.apply(&mut config);
        self.resources.apply(&mut config);
        let package = model_path::open(self.model.model.as_deref(), &config)?;
        let spinner = progress::spinner(output, &format!("joining {}", config.network.cluster));
        let node = halo_runtime::Node::start(&config, &package, true).await?;
        spinner.finish_and_clear();
        let endpoints = node.fabric().endpoints();
        if output.json() {
            output.line(&serde_json::json!({ "event": "ready", "profile": node.profile(), "endpoints": endpoints }))?;
        } else {
            let profile = node.profile();
            output.note(format!(
                "{} serves {} in cluster {}: {:.0} neuron groups/s, {} for them",
                profile.node.bold(),
                package.name().bold(),
                config.network.cluster.bold(),
                profile.speed,
                output::bytes(profile.memory)
            ));
            output.note(format!("listening on {}; Ctrl-C leaves", endpoints.join(", ")).dimmed());
        }
        wait_for_signal().await?;
        node.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Ctrl-C, or what a service manager sends.
pub(crate) async fn wait_for_signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
