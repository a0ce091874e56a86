use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_fabric::{Fabric, Mode};
use halo_runtime::fabric_config;
use owo_colors::OwoColorize;

use crate::commands::node::wait_for_signal;
use crate::options::Global;
use crate::output::Output;

/// Pass on what nodes send one another, where they cannot reach each other
///
/// A zenoh router, as `zenohd` is: nodes started with `--client --connect` and its address need to reach only it. Routers that
/// connect to one another join networks. It needs no model, and serves every cluster.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo router --listen 192.168.1.1:7447
  halo router --listen 10.0.0.1:7447 --connect 192.168.1.1:7447")]
pub(crate) struct Router {
    /// Listen here, on TCP and UDP; may be given several times
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:7447")]
    listen: Vec<String>,

    /// Connect to the router there; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    connect: Vec<String>,

    /// Do not look for other routers by multicast, nor be found by it
    #[arg(long)]
    no_scouting: bool,
}

impl Router {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        config.name = Some(format!("router-{}", std::process::id()));
        config.testing.loss = None;
        let network = &mut config.network;
        network.mode = Mode::Router;
        network.listen = self.listen;
        network.connect = self.connect;
        network.scouting &= !self.no_scouting;
        // It is no member of a cluster: it passes on what members say.
        let fabric = Fabric::open(fabric_config(&config)?).await?;
        let endpoints = fabric.endpoints();
        if output.json() {
            output.line(&serde_json::json!({ "event": "ready", "endpoints": endpoints }))?;
        } else {
            output.note(format!(
                "{} on {}; Ctrl-C ends",
                "routing".bold(),
                endpoints.join(", ")
            ));
        }
        wait_for_signal().await?;
        fabric.close().await;
        Ok(ExitCode::SUCCESS)
    }
}
