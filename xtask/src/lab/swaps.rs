//! `cargo xtask lab swaps`: policies swapped while tokens flow.

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::cluster::{Cluster, Subject, Transport};
use super::condition::Condition;
use super::loss::{self, Loss};
use super::measure::{self, Generation, Length};
use super::network::{Lab, Name, Temporary};
use crate::{cargo, say};

/// Swapped in turn: every other one is a scheduler, and each makes a new placement.
const POLICIES: [&str; 4] = [
    "predictor-static",
    "scheduler-halo",
    "predictor-probe",
    "scheduler-even",
];

/// Measure what swapping schedulers and predictors costs a generation, against one in which none is swapped.
///
/// In a lab of its own. `halo policy activate` runs on the leader's host, one after the other, for as long as tokens flow. Fails if a token is
/// missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hosts: one leads, the others are workers.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=100))]
    hosts: u8,
    /// Share of packets to lose.
    #[arg(long, value_name = "SHARE", value_parser = loss::share, default_value = "0.1")]
    loss: f64,
    #[command(flatten)]
    length: Length,
    #[command(flatten)]
    subject: Subject,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    hosts: u8,
    loss: f64,
    /// Nothing is swapped.
    quiet: Generation,
    /// Something always is.
    swapped: Generation,
    /// Seconds that each swap took, until every node had answered.
    swaps: Vec<f64>,
}

pub(super) fn run(args: &Args, name: &Name) -> Result<()> {
    let (halo, model) = args.subject.provide()?;
    let temporary = Temporary(name.of("swaps"));
    let lab = Lab::up(&temporary.0, args.hosts)?;
    let cluster = Cluster::start(&lab, &halo, &model, Transport::Udp)?;
    let set = |loss: Loss| lab.hosts().iter().try_for_each(|host| loss.set(host));
    let generate = || {
        let leader = cluster.listening()?;
        let generation = measure::generation(leader, args.length, || set(Loss::random(args.loss)))?;
        set(Loss::None)?;
        let (came, wanted) = (generation.seconds.len(), args.length.tokens);
        if came != wanted as usize {
            bail!("{came} tokens came of {wanted}; a greater --limit gives them more time");
        }
        Ok(generation)
    };
    say::step("Measuring", "without swaps");
    let quiet = generate()?;
    say::step("Measuring", "with swaps");
    let mut swaps = Vec::new();
    let swapped = thread::scope(|scope| {
        let generation = scope.spawn(generate);
        for policy in POLICIES.iter().cycle() {
            if generation.is_finished() {
                break;
            }
            let mut activate = cluster.ask("policy activate")?;
            let began = Instant::now();
            // While the leader starts or ends, there may be nobody to ask.
            if cargo::output(activate.args(["--json", policy])).is_ok() {
                swaps.push(began.elapsed().as_secs_f64());
            }
        }
        generation
            .join()
            .ok()
            .context("following the generation failed")?
    })?;
    let report = Report {
        hosts: args.hosts,
        loss: args.loss,
        quiet,
        swapped,
        swaps,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
