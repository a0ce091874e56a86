//! HALO on the hosts of a lab: the first leads, the others are workers.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::host::Host;
use super::network::Lab;
use crate::{cargo, paths, peers, setup};

/// The published model whose shape is measured.
const SHAPE: &str = "tinyllama-1.1b";

/// The cluster's name, and the port of its nodes.
const CLUSTER: &str = "lab";
const PORT: u16 = 7447;

/// Generate text: the first host leads, the others compute for it.
///
/// Builds `halo`, starts `halo node` on each other host, and runs `halo run` on the first. Further arguments go to that:
/// `cargo xtask lab generate -- --sync strict "Once upon a time"`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model package [default: the model of this repository].
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// What tensors travel over.
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    #[command(flatten)]
    program: Program,
    /// Passed on to `halo run`.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    passed: Vec<String>,
}

/// Which `halo` runs on the hosts.
#[derive(Debug, clap::Args)]
pub(super) struct Program {
    /// Run this `halo` instead of building it.
    #[arg(long, value_name = "FILE")]
    halo: Option<PathBuf>,
}

impl Program {
    /// The program, and what it needs.
    pub(super) fn provide(&self) -> Result<PathBuf> {
        setup::ready(setup::Args::default())?;
        match &self.halo {
            Some(halo) => Ok(halo.clone()),
            None => cargo::build("halo"),
        }
    }
}

/// What runs where speed is measured: what the model writes does not matter, so its weights may be random.
#[derive(Debug, clap::Args)]
pub(super) struct Subject {
    /// Model package [default: random weights in the shape of TinyLlama-1.1B].
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    #[command(flatten)]
    program: Program,
}

impl Subject {
    /// The program, and the model that it runs.
    pub(super) fn provide(&self) -> Result<(PathBuf, PathBuf)> {
        let halo = self.program.provide()?;
        if let Some(model) = &self.model {
            return Ok((halo, model.clone()));
        }
        let folder = paths::data()?.join("lab");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let model = peers::random_package(&halo, SHAPE, None, &folder)?;
        Ok((halo, model))
    }
}

/// What tensors travel over, by the names that `halo` has for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// TCP, waiting for everything.
    Tcp,
}

pub(super) fn generate(lab: &Lab, args: &Args) -> Result<()> {
    let halo = args.program.provide()?;
    let tiny = paths::root().join("models/tiny");
    let model = args.model.as_ref().unwrap_or(&tiny);
    let cluster = Cluster::start(lab, &halo, model, args.transport)?;
    cargo::run(cluster.leader()?.args(&args.passed))
}

/// Workers that run on all hosts but the first. Dropping it ends them.
pub(super) struct Cluster<'a> {
    lab: &'a Lab,
    halo: &'a Path,
    model: &'a Path,
    transport: Transport,
    /// More options of `halo node`, by host.
    options: Box<dyn Fn(u8) -> Vec<String> + Sync + 'a>,
    workers: Vec<Worker>,
}

/// A worker's process. Dropping it ends it.
struct Worker {
    host: u8,
    child: Child,
    /// What it prints; it must not be closed before the process ends.
    said: BufReader<ChildStdout>,
}

impl Worker {
    /// Waits until it serves.
    fn wait_ready(&mut self) -> Result<()> {
        let mut said = String::new();
        self.said.read_line(&mut said)?;
        ensure!(
            said.contains("\"ready\""),
            "it does not run: {}",
            said.trim()
        );
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Cluster<'a> {
    pub(super) fn start(
        lab: &'a Lab,
        halo: &'a Path,
        model: &'a Path,
        transport: Transport,
    ) -> Result<Self> {
        Self::start_with(lab, halo, model, transport, |_| Vec::new())
    }

    /// The same, with more options of `halo node`, by host.
    pub(super) fn start_with(
        lab: &'a Lab,
        halo: &'a Path,
        model: &'a Path,
        transport: Transport,
        options: impl Fn(u8) -> Vec<String> + Sync + 'a,
    ) -> Result<Self> {
        let workers = lab.hosts().iter().skip(1);
        let mut cluster = Self {
            lab,
            halo,
            model,
            transport,
            options: Box::new(options),
            workers: Vec::new(),
        };
        ensure!(
            workers.len() > 0,
            "a cluster needs two hosts: `cargo xtask lab up --hosts 2`"
        );
        for host in workers {
            let mut worker = cluster.worker(host)?;
            let ready = worker.wait_ready();
            ready.with_context(|| format!("cannot start a worker on host {}", host.number))?;
            cluster.workers.push(worker);
        }
        Ok(cluster)
    }

    /// Kills the worker of a host.
    pub(super) fn kill(&mut self, host: u8) {
        self.workers.retain(|worker| worker.host != host);
    }

    /// Starts a worker on a host that has none, and returns before it serves.
    pub(super) fn join(&mut self, host: u8) -> Result<()> {
        let worker = self.worker(self.lab.host(host)?)?;
        self.workers.push(worker);
        Ok(())
    }

    /// The workers' hosts and processes. Fails if one has ended by itself.
    pub(super) fn processes(&mut self) -> Result<Vec<(u8, u32)>> {
        for worker in &mut self.workers {
            if let Some(status) = worker.child.try_wait()? {
                bail!(
                    "the worker on host {} ended by itself ({status})",
                    worker.host
                );
            }
        }
        let workers = self.workers.iter();
        Ok(workers
            .map(|worker| (worker.host, worker.child.id()))
            .collect())
    }

    fn worker(&self, host: &Host) -> Result<Worker> {
        let mut command = self.halo(host, "node");
        command.args(["--json", "--name", &format!("host{}", host.number)]);
        command.args(["--listen", &endpoint(host)]);
        command.args((self.options)(host.number));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("it has no output")?;
        Ok(Worker {
            host: host.number,
            child,
            said: BufReader::new(stdout),
        })
    }

    /// `halo run` at the head of the cluster, with all its workers.
    pub(super) fn leader(&self) -> Result<Command> {
        self.lead("run")
    }

    /// A subcommand, which may be several words, at the head of the cluster, with all its workers.
    pub(super) fn lead(&self, subcommand: &str) -> Result<Command> {
        self.lead_some(subcommand, self.workers.len())
    }

    /// The same, with so many of them or more.
    pub(super) fn lead_some(&self, subcommand: &str, workers: usize) -> Result<Command> {
        let mut command = self.halo(self.lab.host(1)?, subcommand);
        command.args(["--workers", &workers.to_string()]);
        for host in self.lab.hosts().iter().skip(1) {
            command.args(["--connect", &endpoint(host)]);
        }
        Ok(command)
    }

    /// A subcommand on the first host that asks every node something, the leader too if it [listens](Self::listening).
    pub(super) fn ask(&self, subcommand: &str) -> Result<Command> {
        let mut command = self.lab.host(1)?.command(self.halo);
        command.args(subcommand.split(' '));
        command.args(["--cluster", CLUSTER, "--no-scouting"]);
        for host in self.lab.hosts() {
            command.args(["--connect", &endpoint(host)]);
        }
        Ok(command)
    }

    /// `halo run` at the head of the cluster, which others can connect to.
    pub(super) fn listening(&self) -> Result<Command> {
        let mut command = self.leader()?;
        command.args(["--listen", &endpoint(self.lab.host(1)?)]);
        Ok(command)
    }

    fn halo(&self, host: &Host, subcommand: &str) -> Command {
        let mut command = host.command(self.halo);
        command.args(subcommand.split(' '));
        command.args(["--cluster", CLUSTER, "--no-scouting"]);
        if self.transport == Transport::Tcp {
            command.args(["--transport", "tcp"]);
        }
        command.args([OsStr::new("--model"), self.model.as_ref()]);
        command
    }
}

fn endpoint(host: &Host) -> String {
    format!("{}:{PORT}", host.address())
}
