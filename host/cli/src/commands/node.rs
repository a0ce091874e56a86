use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_models::Package;
use halo_runtime::{Config, packages};
use owo_colors::OwoColorize;

use crate::model_path;
use crate::options::{
    CacheOptions, Global, ModelOption, NetworkOptions, ResourceOptions, TestingOptions,
};
use crate::output::{self, Output};
use crate::progress;

/// Compute for others: join a cluster as a worker
///
/// A worker computes with the same model package as the leader. One that has none waits until `halo model push` gives it one, or
/// until there is another node that does; it keeps it, and has it after a restart. Of a generation it keeps nothing that it could
/// not lose: stop it whenever you like.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo node --cluster home
  halo node --cluster home --no-model --cache /var/lib/halo/models
  halo node --cluster home --listen 192.168.1.11:7447 --no-scouting")]
pub(crate) struct Node {
    /// The cluster's name [default: halo]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    #[command(flatten)]
    model: ModelOption,

    /// Begin with what the cluster gave last, or wait for it, even if there is a model here
    #[arg(long, conflicts_with = "model")]
    no_model: bool,

    #[command(flatten)]
    resources: ResourceOptions,

    #[command(flatten)]
    cache: CacheOptions,

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
        self.cache.apply(&mut config);
        let Some(mut package) = self.package(&config, output).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        loop {
            let spinner = progress::spinner(output, &format!("joining {}", config.network.cluster));
            let node = halo_runtime::Node::start(&config, &package, true).await?;
            spinner.finish_and_clear();
            ready(&node, &config, &package, output)?;
            let mut given = node.given();
            let next = tokio::select! {
                signal = wait_for_signal() => signal.map(|()| None)?,
                next = given.wait_for(Option::is_some) => next?.clone(),
            };
            node.close().await;
            match next {
                Some(next) => package = next,
                None => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    /// What to begin with: the model that was named, the one that was given last, or the default one. Else one is waited for;
    /// nothing if that was interrupted.
    async fn package(&self, config: &Config, output: &Output) -> Result<Option<Package>> {
        let named = self.model.model.as_deref().or(config.model.as_deref());
        if named.is_some() && !self.no_model {
            return model_path::open(named, config).map(Some);
        }
        let cache = packages::cache(&config.packages);
        if let Some(package) = cache.and_then(|cache| cache.served_last()) {
            return Ok(Some(package));
        }
        if !self.no_model && model_path::find(None).is_ok() {
            return model_path::open(None, config).map(Some);
        }
        let cluster = &config.network.cluster;
        if output.json() {
            output.line(&serde_json::json!({ "event": "waiting" }))?;
        } else {
            output.note(format!(
                "no model here; `halo model push --cluster {cluster}` gives this node one"
            ));
        }
        let spinner = progress::spinner(output, &format!("waiting for a model in {cluster}"));
        let package = tokio::select! {
            signal = wait_for_signal() => signal.map(|()| None)?,
            package = packages::receive(config) => Some(package?),
        };
        spinner.finish_and_clear();
        Ok(package)
    }
}

/// Says what a node does from now on.
fn ready(
    node: &halo_runtime::Node,
    config: &Config,
    package: &Package,
    output: &Output,
) -> Result<()> {
    let (profile, endpoints) = (node.profile(), node.fabric().endpoints());
    if output.json() {
        let event =
            serde_json::json!({ "event": "ready", "profile": profile, "endpoints": endpoints });
        return output.line(&event);
    }
    output.note(format!(
        "{} serves {} in cluster {}: {:.0} neuron groups/s, {} for them",
        profile.node.bold(),
        package.name().bold(),
        config.network.cluster.bold(),
        profile.speed,
        output::bytes(profile.memory)
    ));
    output.note(format!("listening on {}; Ctrl-C leaves", endpoints.join(", ")).dimmed());
    Ok(())
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
