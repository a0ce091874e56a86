//! `cargo xtask lab speedup`: what loss costs, and what it costs tensor parallelism over TCP.

pub(super) mod table;

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use super::cluster::{Cluster, Subject, Transport};
use super::condition::Condition;
use super::loss::{self, Loss};
use super::measure::{self, Generation, Length};
use super::network::{Lab, Name, Temporary};
use super::slower::Slower;
use crate::{peers, say};

/// Measure what a token takes at several shares of lost packets, and the same over TCP.
///
/// In a lab of its own, with a core for each host as far as there are as many. The baseline is what tensor parallelism over TCP
/// does: the same engine, the feed-forward in equal shares, every tensor over TCP, and everything waited for. Let the machine do
/// nothing else meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hosts: one leads, the others are workers.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=100))]
    hosts: u8,
    /// What of a core's speed each host has, such as 0.5, or less where there are too few cores [default: all].
    #[arg(long, value_name = "CORES")]
    share: Option<f64>,
    /// Memory that the leader has for neuron groups, such as 200MB, of strict and relaxed: what does not fit goes to the workers
    /// even if that is not faster.
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Shares of packets to lose.
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', value_parser = loss::share, default_value = "0,0.01,0.05,0.1,0.2")]
    loss: Vec<f64>,
    /// Lose them in bursts of so many on average.
    #[arg(long, value_name = "PACKETS")]
    burst: Option<f64>,
    /// What to measure.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "tcp,strict,relaxed"
    )]
    mode: Vec<Mode>,
    /// Scheduler of strict and relaxed [default: that of `halo run`].
    #[arg(long, value_name = "POLICY")]
    scheduler: Option<String>,
    #[command(flatten)]
    length: Length,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    subject: Subject,
}

/// How a generation is synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// The baseline.
    Tcp,
    Strict,
    Relaxed,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }

    fn transport(self) -> Transport {
        match self {
            Self::Tcp => Transport::Tcp,
            Self::Strict | Self::Relaxed => Transport::Udp,
        }
    }
}

/// What was measured of one mode at one share of loss.
#[derive(Debug, Serialize)]
struct Row {
    loss: f64,
    mode: Mode,
    /// One for each round.
    generations: Vec<Generation>,
}

/// All that was measured, and under which conditions.
#[derive(Debug, Serialize)]
struct Report {
    halo: &'static str,
    machine: String,
    cores: usize,
    kernel: String,
    model: String,
    hosts: u8,
    share: Option<f64>,
    memory: Option<String>,
    burst: Option<f64>,
    tokens: u32,
    limit_seconds: u64,
    /// The first host by itself.
    alone: Generation,
    rows: Vec<Row>,
}

pub(super) fn run(args: &Args, name: &Name) -> Result<()> {
    let (halo, model) = args.subject.provide()?;
    let temporary = Temporary(name.of("speedup"));
    let lab = Lab::up(&temporary.0, args.hosts)?;
    let shares = args.share.map(|share| vec![share; usize::from(args.hosts)]);
    let slower = shares.as_deref().map(Slower::fit).transpose()?;
    if let Some(slower) = &slower {
        slower.place(&lab)?;
    }
    let options = |host| {
        slower
            .iter()
            .flat_map(|s| s.options(host))
            .collect::<Vec<_>>()
    };

    say::step("Measuring", "one host alone");
    let mut alone = lab.host(1)?.command(&halo);
    alone.arg("run").arg("--model").arg(&model).args(options(1));
    let alone = measure::generation(alone, args.length, || Ok(()))?;
    let mut rows = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        let modes = || {
            args.mode
                .iter()
                .filter(|mode| mode.transport() == transport)
        };
        if modes().next().is_none() {
            continue;
        }
        let first = rows.len();
        for &loss in &args.loss {
            rows.extend(modes().map(|&mode| Row {
                loss,
                mode,
                generations: Vec::new(),
            }));
        }
        let cluster = Cluster::start_with(&lab, &halo, &model, transport, options)?;
        for round in 1..=args.rounds {
            for row in &mut rows[first..] {
                let Row {
                    loss,
                    mode,
                    generations,
                } = row;
                say::step(
                    "Measuring",
                    format_args!(
                        "{} at {}, round {round} of {}",
                        mode.name(),
                        table::percent(*loss),
                        args.rounds
                    ),
                );
                let mut leader = cluster.leader()?;
                leader.args(options(1));
                generations.push(cell(args, &lab, leader, *loss, *mode)?);
            }
        }
    }
    let report = Report {
        halo: env!("CARGO_PKG_VERSION"),
        machine: peers::processor(),
        cores: thread::available_parallelism().map_or(1, usize::from),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        model: model
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        hosts: args.hosts,
        share: slower.as_ref().map(|slower| slower.shares()[0]),
        memory: args.memory.clone(),
        burst: args.burst,
        tokens: args.length.tokens,
        limit_seconds: args.length.limit,
        alone,
        rows,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table::show(&report));
    }
    Ok(())
}

/// One generation. The links are perfect until the cluster is ready, and again when it ends.
fn cell(args: &Args, lab: &Lab, mut leader: Command, share: f64, mode: Mode) -> Result<Generation> {
    match mode {
        Mode::Tcp => leader.args(["--scheduler", "scheduler-even"]),
        Mode::Strict | Mode::Relaxed => {
            leader.args(["--sync", mode.name()]);
            leader.args(args.memory.iter().flat_map(|bytes| ["--memory", bytes]));
            leader.args(args.scheduler.iter().flat_map(|name| ["--scheduler", name]))
        }
    };
    let loss = match args.burst {
        Some(length) => Loss::bursty(share, length)?,
        None => Loss::random(share),
    };
    let set = |loss: Loss| lab.hosts().iter().try_for_each(|host| loss.set(host));
    let generation = measure::generation(leader, args.length, || set(loss))?;
    set(Loss::None)?;
    Ok(generation)
}
