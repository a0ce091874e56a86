use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use halo_fabric::Fabric;
use halo_models::Package;
use halo_policy::{Digest, PolicyStore};
use halo_runtime::{Config, Report, cluster, fabric_config};
use owo_colors::OwoColorize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::commands::run::Event;
use crate::model_path;
use crate::options::{Global, ModelOption};
use crate::output::{self, Output};

/// Nodes beside the leader.
const WORKERS: usize = 3;

/// Share of the neuron groups that each node has memory for. With more, the leader would do best to compute this small model
/// alone, and a scheduler worth its name would see that.
const MEMORY: f64 = 0.3;

/// What the story begins with.
const PROMPT: &str = "Once upon a time there was a little llama named Ada.";

/// Tokens of the comparison, which is slow on purpose.
const COMPARED: usize = 12;

/// Watch four nodes write a story over a bad network, with a scheduler swapped in the middle.
///
/// Starts a leader and three workers as processes on this machine, joined by zenoh over UDP on the loopback interface. Every
/// node loses a tenth of the tensor packets that reach it. The scheduler is `scheduler-even` at first and is swapped for
/// `scheduler-halo` half way, without a pause. A table at the end shows what it took, beside the same nodes synchronised as
/// TCP would.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    model: ModelOption,

    /// Share of tensor packets that each node loses
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
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
        let model = model_path::find(self.model.model.as_deref())?;
        output.note(format!(
            "{} a leader and {WORKERS} workers on this machine; each loses {} of the tensor packets that reach it",
            "Starting".green().bold(),
            output::percent(self.loss)
        ));
        let workers = self.start_workers(&model).await?;
        let addresses: Vec<String> = workers.iter().map(|w| w.address.clone()).collect();

        let story = self
            .lead(&model, &addresses, Some(self.max_tokens / 3), output)
            .await?;
        output.note(format!(
            "\n{} the same nodes for {COMPARED} tokens, synchronised as TCP would",
            "Comparing".green().bold()
        ));
        let compared = self
            .lead(&model, &addresses, None, &Output::silent())
            .await?;
        drop(workers);

        if output.json() {
            output.line(&serde_json::json!({ "loss": self.loss, "workers": WORKERS, "relaxed": story, "like_tcp": compared }))?;
        } else {
            anstream::println!("\n{}", comparison(&story, &compared));
            output.note(
                format!(
                    "Loss is injected where each node receives packets, {} of them, from seed {}. The right column is a simulation: HALO waits \
                     for everything and asks again as Linux's TCP retransmits a lone segment, after 200 ms and then twice as long each time.",
                    output::percent(self.loss),
                    self.seed
                )
                .dimmed(),
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn start_workers(&self, model: &Path) -> Result<Vec<Worker>> {
        let (mut workers, memory) = (Vec::new(), memory(model)?);
        for number in 1..=WORKERS {
            let address = format!("127.0.0.1:{}", free_port()?);
            let name = format!("worker-{number}");
            let child = program()?
                .args([
                    "node",
                    "--json",
                    "--no-scouting",
                    "--threads",
                    "1",
                    "--memory",
                    &memory,
                    "--cluster",
                    &demo_cluster(),
                    "--name",
                    &name,
                    "--listen",
                    &address,
                ])
                .args([
                    "--loss",
                    &self.loss.to_string(),
                    "--loss-seed",
                    &(self.seed + number as u64).to_string(),
                    "--model",
                ])
                .arg(model)
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start a worker")?;
            workers.push(Worker {
                child,
                address,
                name,
            });
        }
        for worker in &mut workers {
            let stdout = worker
                .child
                .stdout
                .take()
                .context("a worker has no output")?;
            let mut lines = BufReader::new(stdout).lines();
            let first = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
            match first.with_context(|| format!("{} was not ready within 60 s", worker.name))?? {
                Some(line) if line.contains("\"ready\"") => {}
                other => bail!(
                    "{} did not start: {}",
                    worker.name,
                    other.unwrap_or_default()
                ),
            }
        }
        Ok(workers)
    }

    /// Runs a leader as a process and shows what it writes. With `swap_at`, another scheduler comes into force after so many
    /// tokens; without, it is the comparison.
    async fn lead(
        &self,
        model: &Path,
        addresses: &[String],
        swap_at: Option<usize>,
        output: &Output,
    ) -> Result<Report> {
        let mut command = program()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let memory = memory(model)?;
        let tokens = if swap_at.is_some() {
            self.max_tokens
        } else {
            COMPARED
        };
        command
            .args([
                "run",
                "--json",
                "--no-scouting",
                "--cluster",
                &demo_cluster(),
                "--name",
                "leader",
                "--workers",
                &WORKERS.to_string(),
            ])
            .args([
                "--listen",
                &address,
                "--threads",
                "1",
                "--memory",
                &memory,
                "--max-tokens",
                &tokens.to_string(),
                "--patience",
                "30",
            ])
            .args([
                "--loss",
                &self.loss.to_string(),
                "--loss-seed",
                &self.seed.to_string(),
            ])
            .args([
                "--sync",
                if swap_at.is_some() {
                    "relaxed"
                } else {
                    "like-tcp"
                },
                "--scheduler",
                "scheduler-even",
            ])
            .args(["--ignore-eos", "--model"])
            .arg(model);
        for address in addresses {
            command.args(["--connect", address]);
        }
        // Whoever swaps the scheduler is on the network before the story begins: it is over in seconds.
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut observer = if swap_at.is_some() {
            Some(observer(&address, addresses).await?)
        } else {
            None
        };
        if observer.is_some() {
            command.args(["--connect", &address]);
        }
        let mut leader = command
            .arg(PROMPT)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the leader")?;
        let stdout = leader.stdout.take().context("the leader has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut swap = None;
        while let Some(line) = lines.next_line().await? {
            let event: Event =
                serde_json::from_str(&line).with_context(|| format!("the leader says: {line}"))?;
            match event {
                Event::Ready { shares } => {
                    let shares: Vec<String> = shares
                        .iter()
                        .map(|(n, s)| format!("{n} {}", output::percent(*s)))
                        .collect();
                    output.note(format!(
                        "{} scheduler-even: {}\n",
                        "Placed".green().bold(),
                        shares.join(", ")
                    ));
                    if !output.json() {
                        output.piece(&PROMPT.bold().to_string())?;
                    }
                }
                Event::Token(token) => {
                    if !output.json() {
                        output.piece(&token.text)?;
                    }
                    if swap_at.is_some_and(|at| token.index == at) && swap.is_none() {
                        output.piece(&" ⟨scheduler-halo⟩".cyan().to_string())?;
                        if let Some(observer) = observer.take() {
                            swap = Some(tokio::spawn(swap_scheduler(observer)));
                        }
                    }
                }
                Event::Done(report) => {
                    if let Some(swap) = swap {
                        swap.await.context("the swap was cut short")??;
                    }
                    leader.wait().await?;
                    return Ok(*report);
                }
            }
        }
        bail!("the leader ended early: {}", leader.wait().await?)
    }
}

/// What `halo policy activate scheduler-halo` does.
async fn swap_scheduler(fabric: Fabric) -> Result<()> {
    let stored = PolicyStore::builtin().get("scheduler-halo")?;
    let answers = cluster::activate(
        &fabric,
        &stored.name,
        Digest::of(&stored.bytes),
        Some(&stored.bytes),
        &[],
    )
    .await;
    fabric.close().await;
    for (node, answer) in answers {
        answer.with_context(|| format!("{node} did not swap its scheduler"))?;
    }
    Ok(())
}

/// A worker's process. Gone with this value.
struct Worker {
    child: Child,
    address: String,
    name: String,
}

/// This program again; its processes end with this one.
fn program() -> Result<Command> {
    let mut command =
        Command::new(std::env::current_exe().context("cannot tell where this program is")?);
    command.kill_on_drop(true).stdin(Stdio::null());
    Ok(command)
}

/// What each node may take for neuron groups.
fn memory(model: &Path) -> Result<String> {
    let all = Package::open(model)?.all_groups_bytes();
    Ok(((all as f64 * MEMORY) as u64).to_string())
}

/// A name that no other demo on this machine has.
fn demo_cluster() -> String {
    format!("demo-{}", std::process::id())
}

/// Somebody on the network who is no node, as `halo policy` is.
async fn observer(address: &str, workers: &[String]) -> Result<Fabric> {
    let mut config = Config {
        name: Some("observer".into()),
        ..Config::default()
    };
    config.network.cluster = demo_cluster();
    config.network.listen = vec![address.to_owned()];
    config.network.connect = workers.to_vec();
    config.network.scouting = false;
    Ok(Fabric::open(fabric_config(&config)?).await?)
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

fn comparison(relaxed: &Report, like_tcp: &Report) -> String {
    let row = |what: &str, value: &dyn Fn(&Report) -> String| {
        vec![what.to_owned(), value(relaxed), value(like_tcp)]
    };
    let rate = |r: &Report| format!("{:.1}", r.tokens_per_second());
    output::table(&[
        vec![String::new(), "HALO relaxed".into(), "like TCP".into()],
        row("tokens", &|r| r.tokens.len().to_string()),
        row("tokens per second", &rate),
        row("longest pause", &|r| {
            output::seconds(r.longest_pause_seconds)
        }),
        row("rounds", &|r| r.counts.rounds.to_string()),
        row("tensor packets sent by the leader", &|r| {
            r.counts.packets_sent.to_string()
        }),
        row("asked again", &|r| r.counts.asked_again.to_string()),
        row("partials concealed", &|r| {
            format!("{} of {}", r.counts.concealed_partials, r.counts.partials)
        }),
        row("predicted contribution concealed", &|r| {
            output::percent(f64::from(r.concealed))
        }),
        row("placements taken over on the way", &|r| {
            r.counts.new_placements.to_string()
        }),
    ])
}
