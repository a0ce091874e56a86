use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use halo_fabric::Fabric;
use halo_models::Package;
use halo_policy::{Kind, PolicyStore};
use halo_runtime::{Choice, Config, Report, cluster, fabric_config, rollout};
use owo_colors::OwoColorize;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::model_path;
use crate::options::{Global, ModelOption, share};
use crate::output::{self, Output};
use crate::session::Event;

/// Nodes beside the leader.
const WORKERS: usize = 3;

/// Share of the neuron groups that each node has memory for. With more, the leader would do best to compute this small model
/// alone, and a scheduler worth its name would see that.
const MEMORY: f64 = 0.3;

/// What the story begins with.
const PROMPT: &str = "Once upon a time there was a little llama named Ada.";

/// Tokens of the comparison, which is slow on purpose.
const COMPARED: usize = 12;

/// Watch four nodes write a story over a bad network, with a scheduler swapped in the middle
///
/// Starts a leader and three workers as processes on this machine, joined by zenoh over UDP on the loopback interface. Every
/// node loses a tenth of the tensor packets that reach it. The scheduler is `scheduler-even` at first and, a third of the way, is swapped for
/// `scheduler-halo`, without a pause. A table at the end shows what it took, beside the same nodes synchronised as
/// TCP would.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    model: ModelOption,

    /// Share of tensor packets that each node loses
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    loss: f64,

    /// Tokens of the story
    #[arg(long, short = 'n', value_name = "N", default_value_t = 160)]
    max_tokens: usize,

    /// Seed of the loss
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl Demo {
    pub(crate) async fn execute(self, _global: &Global, output: &Output) -> Result<ExitCode> {
        output.note(format!(
            "{} a leader and {WORKERS} workers on this machine; each loses {} of the tensor packets that reach it",
            "Starting".green().bold(),
            output::percent(self.loss)
        ));
        let stage = Stage::set(&self).await?;
        let swap = Play {
            tokens: self.max_tokens,
            sync: "relaxed",
            swap_at: Some(self.max_tokens / 3),
        };
        let relaxed = stage.perform(&swap, output).await?;
        output.note(format!(
            "\n{} the same nodes for {COMPARED} tokens, synchronised as TCP would",
            "Comparing".green().bold()
        ));
        let compared = Play {
            tokens: COMPARED,
            sync: "like-tcp",
            swap_at: None,
        };
        let like_tcp = stage.perform(&compared, &Output::silent()).await?;
        stage.clear().await;

        if output.json() {
            output.line(&serde_json::json!({ "loss": self.loss, "workers": WORKERS, "relaxed": relaxed, "like_tcp": like_tcp }))?;
            return Ok(ExitCode::SUCCESS);
        }
        anstream::println!("\n{}", comparison(&relaxed, &like_tcp));
        output.note(
            format!(
                "Loss is injected where a node receives a tensor packet: {} of them, from seed {}. The right column is a simulation: \
                 HALO waits for everything and asks again as Linux's TCP retransmits a lone segment, after 200 ms and then twice as \
                 long each time.",
                output::percent(self.loss),
                self.seed
            )
            .dimmed(),
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// The workers, and somebody who is no node but can ask and tell them things, as `halo policy` does.
struct Stage {
    model: PathBuf,
    cluster: String,
    /// What each node may take for neuron groups.
    memory: u64,
    loss: f64,
    seed: u64,
    workers: Vec<Worker>,
    observer: Fabric,
    observer_address: String,
}

/// A worker's process. Gone with this value.
struct Worker {
    process: Child,
    address: String,
    name: String,
}

/// One story.
struct Play {
    tokens: usize,
    sync: &'static str,
    /// After so many tokens another scheduler comes into force.
    swap_at: Option<usize>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    report: Report,
    /// Tensor packets that the nodes lost, all together.
    packets_lost: u64,
}

impl Stage {
    async fn set(demo: &Demo) -> Result<Self> {
        let model = model_path::find(demo.model.model.as_deref())?;
        let memory = (Package::open(&model)?.all_groups_bytes() as f64 * MEMORY) as u64;
        // A name that no other demo on this machine has.
        let cluster = format!("demo-{}", std::process::id());
        let observer_address = format!("127.0.0.1:{}", free_port()?);
        let mut config = Config {
            name: Some("observer".into()),
            ..Config::default()
        };
        config.network.cluster.clone_from(&cluster);
        config.network.listen = vec![observer_address.clone()];
        config.network.scouting = false;
        let observer = Fabric::open(fabric_config(&config)?).await?;
        let (loss, seed, workers) = (demo.loss, demo.seed, Vec::new());
        let mut stage = Self {
            model,
            cluster,
            memory,
            loss,
            seed,
            workers,
            observer,
            observer_address,
        };
        for number in 1..=WORKERS {
            let (name, address) = (
                format!("worker-{number}"),
                format!("127.0.0.1:{}", free_port()?),
            );
            let process = stage
                .node("node", &name, &address, number as u64)?
                .spawn()
                .context("cannot start a worker")?;
            stage.workers.push(Worker {
                process,
                address,
                name,
            });
        }
        for worker in &mut stage.workers {
            worker.ready().await?;
        }
        Ok(stage)
    }

    /// This program again, as a node of the cluster. Its process ends with this one.
    fn node(&self, command: &str, name: &str, address: &str, seed: u64) -> Result<Command> {
        let mut program =
            Command::new(std::env::current_exe().context("cannot tell where this program is")?);
        program.args([
            command,
            "--json",
            "--no-scouting",
            "--cluster",
            &self.cluster,
            "--name",
            name,
            "--listen",
            address,
        ]);
        program.args([
            "--connect",
            &self.observer_address,
            "--threads",
            "1",
            "--memory",
            &self.memory.to_string(),
        ]);
        program.args([
            "--loss",
            &self.loss.to_string(),
            "--loss-seed",
            &(self.seed + seed).to_string(),
        ]);
        program.arg("--model").arg(&self.model);
        program
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(program)
    }

    /// Runs a leader as a process and shows what it writes.
    async fn perform(&self, play: &Play, output: &Output) -> Result<Outcome> {
        let mut command = self.node("run", "leader", &format!("127.0.0.1:{}", free_port()?), 0)?;
        command.args([
            "--workers",
            &WORKERS.to_string(),
            "--patience",
            "30",
            "--scheduler",
            "scheduler-even",
            "--attention",
            "leader",
        ]);
        command.args([
            "--sync",
            play.sync,
            "--max-tokens",
            &play.tokens.to_string(),
            "--ignore-eos",
        ]);
        for worker in &self.workers {
            command.args(["--connect", &worker.address]);
        }
        let lost_before = self.packets_lost().await;
        let mut leader = command
            .arg(PROMPT)
            .spawn()
            .context("cannot start the leader")?;
        let stdout = leader.stdout.take().context("the leader has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut swap = None;
        while let Some(line) = lines.next_line().await? {
            match serde_json::from_str(&line).with_context(|| format!("the leader says: {line}"))? {
                Event::Ready { shares } => {
                    let shares = shares
                        .iter()
                        .map(|(n, s)| format!("{n} {}", output::percent(*s)));
                    let shares = shares.collect::<Vec<_>>().join(", ");
                    output.note(format!(
                        "{} by scheduler-even: {shares}\n",
                        "Placed".green().bold()
                    ));
                    output.piece(&PROMPT.bold().to_string())?;
                }
                Event::Token(token) => {
                    output.piece(&token.text)?;
                    if play.swap_at == Some(token.index) {
                        output.piece(&" ⟨now by scheduler-halo⟩".cyan().to_string())?;
                        swap = Some(tokio::spawn(swap_scheduler(self.observer.clone())));
                    }
                }
                Event::Done(report) => {
                    output.piece("\n")?;
                    if let Some(swap) = swap {
                        swap.await.context("the swap was cut short")??;
                    }
                    leader.wait().await?;
                    let packets_lost =
                        self.packets_lost().await - lost_before + report.counts.packets_lost;
                    return Ok(Outcome {
                        report: *report,
                        packets_lost,
                    });
                }
            }
        }
        bail!("the leader ended early: {}", leader.wait().await?)
    }

    /// What the workers have lost so far.
    async fn packets_lost(&self) -> u64 {
        let counters = cluster::counters(&self.observer).await;
        let workers = counters
            .iter()
            .filter(|(node, _)| self.workers.iter().any(|w| w.name == node.as_str()));
        workers
            .filter_map(|(_, c)| c.as_ref().ok())
            .map(|c| c.dropped.packets)
            .sum()
    }

    async fn clear(self) {
        drop(self.workers);
        self.observer.close().await;
    }
}

impl Worker {
    /// Waits until it serves.
    async fn ready(&mut self) -> Result<()> {
        let stdout = self
            .process
            .stdout
            .take()
            .context("a worker has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
        match first.with_context(|| format!("{} was not ready within 60 s", self.name))?? {
            Some(line) if line.contains("\"ready\"") => Ok(()),
            other => bail!("{} did not start: {}", self.name, other.unwrap_or_default()),
        }
    }
}

/// What `halo policy activate scheduler-halo` does.
async fn swap_scheduler(fabric: Fabric) -> Result<()> {
    let stored = PolicyStore::builtin().get("scheduler-halo")?;
    let choice = Choice {
        kind: Kind::Scheduler,
        name: stored.name,
        digest: Some(stored.digest),
        settings: Vec::new(),
    };
    let answers = rollout::activate(&fabric, &choice, &stored.bytes).await;
    for (node, answer) in answers {
        answer.with_context(|| format!("{node} did not swap its scheduler"))?;
    }
    Ok(())
}

/// A port that is free for both TCP and UDP at this moment.
fn free_port() -> Result<u16> {
    for _ in 0..64 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no port of the loopback interface that is free for TCP and UDP")
}

fn comparison(relaxed: &Outcome, like_tcp: &Outcome) -> String {
    let row = |what: &str, value: &dyn Fn(&Report) -> String| {
        vec![
            what.to_owned(),
            value(&relaxed.report),
            value(&like_tcp.report),
        ]
    };
    output::table(&[
        vec![String::new(), "HALO relaxed".into(), "like TCP".into()],
        row("tokens", &|r| r.tokens.len().to_string()),
        row("tokens per second", &|r| {
            format!("{:.1}", r.tokens_per_second())
        }),
        row("longest pause", &|r| {
            output::seconds(r.longest_pause_seconds)
        }),
        row("rounds", &|r| r.counts.rounds.to_string()),
        vec![
            "tensor packets lost".into(),
            relaxed.packets_lost.to_string(),
            like_tcp.packets_lost.to_string(),
        ],
        row("made up for by parity", &|r| r.counts.made_up.to_string()),
        row("asked again", &|r| r.counts.asked_again.to_string()),
        row("partials concealed", &|r| {
            format!("{} of {}", r.counts.concealed_partials, r.counts.partials)
        }),
        row("predicted contribution concealed", &|r| {
            output::percent(f64::from(r.concealed))
        }),
        row("new placements on the way", &|r| {
            r.counts.new_placements.to_string()
        }),
    ])
}
