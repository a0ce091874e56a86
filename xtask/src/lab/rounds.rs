//! `cargo xtask lab rounds`: what a round takes in which nothing is computed.

use anyhow::Result;

use super::cluster::{Cluster, Subject, Transport};
use super::network::{Lab, Name, Temporary};
use crate::cargo;

/// Measure rounds with each worker in which nothing is computed, in a lab of its own; `halo ping` says what its figures are.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hosts: one leads, the others are workers.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=100))]
    hosts: u8,
    /// Rounds with each worker.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    rounds: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    subject: Subject,
}

pub(super) fn run(args: &Args, name: &Name) -> Result<()> {
    let (halo, model) = args.subject.provide()?;
    let temporary = Temporary(name.of("rounds"));
    let lab = Lab::up(&temporary.0, args.hosts)?;
    let cluster = Cluster::start(&lab, &halo, &model, Transport::Udp)?;
    let mut ping = cluster.lead("ping")?;
    ping.args(["--rounds", &args.rounds.to_string()]);
    cargo::run(ping.args(args.json.then_some("--json")))
}
