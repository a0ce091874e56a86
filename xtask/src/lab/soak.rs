//! `cargo xtask lab soak`: generations, one after the other, while hosts die, freeze, are cut off and come back.

mod generation;
mod memory;
mod pauses;
mod schedule;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cluster::{Cluster, Program, Transport};
use super::condition::Condition;
use super::loss::Loss;
use super::network::{Lab, Name, Temporary};
use super::tools;
use crate::{cargo, paths, say};

use generation::{Generation, Mode};
use memory::Memory;
use pauses::Pauses;
use schedule::{Action, Fault, Kind, Schedule};

/// Tokens of one generation.
const TOKENS: usize = 384;

/// Between two looks at the processes.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// After which workers have forgotten a leader: ten seconds until they miss it, if the network is bad, and what they keep for it 15 to
/// 30 s longer. And some looks at them then.
const REST: Duration = Duration::from_secs(50);

/// Generate text while hosts die, freeze, are cut off and come back, and while links lose more and less, and account for it.
///
/// In a lab of its own, with a model with 32-bit weights, whose tokens do not depend on who computes what. The first host leads,
/// one generation after the other, in turn strict and relaxed. Every token of a strict one must be the one that a single machine
/// generates, every relaxed one must have all its tokens, no process may end by itself, and none may grow. The seed says what
/// happens when; which packets are lost, the kernel decides.
///
/// After the first two generations and after the last nobody leads for 50 s. What the worker that is never killed takes then is
/// compared.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// What happens when.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Hosts: one leads, the others are workers. The last is never killed, so that what it takes can be watched.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=20))]
    hosts: u8,
    /// Leave out what happens, to find out what something comes from.
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    without: Vec<Fault>,
    #[command(flatten)]
    program: Program,
}

pub(super) fn run(args: &Args, name: &Name) -> Result<()> {
    let halo = args.program.provide()?;
    let model = exact_model(&halo)?;
    let temporary = Temporary(name.of("soak"));
    let lab = Lab::up(&temporary.0, args.hosts)?;
    say::step("Generating", "what is right, on one host alone");
    let mut alone = lab.host(1)?.command(&halo);
    alone.arg("run").arg("--model").arg(&model);
    let mut alone = Generation::start(alone, TOKENS)?;
    while alone.next(Instant::now() + LOOK_PERIOD)? {}
    let mut soak = Soak {
        right: alone.tokens()?,
        lab: &lab,
        cluster: Cluster::start(&lab, &halo, &model, Transport::Udp)?,
        schedule: Schedule::new(args.seed, args.hosts, &args.without),
        begin: Instant::now(),
        look: Instant::now(),
        memory: Memory::default(),
        pauses: Pauses::default(),
        tally: Tally::default(),
    };
    let end = soak.begin + Duration::from_secs(60 * args.minutes);
    soak.generate_both()?;
    soak.rest(args.hosts)?;
    while Instant::now() < end {
        soak.generate_both()?;
    }
    soak.rest(args.hosts)?;
    soak.report(args)
}

/// Makes the model's package, unless it is there.
fn exact_model(halo: &Path) -> Result<PathBuf> {
    let folder = paths::data()?.join("lab");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let package = folder.join("tiny-exact");
    let mut import = Command::new(halo);
    import.args(["model", "import", "--weights", "f32", "--overwrite"]);
    import.arg(paths::root().join("models/tests/data/tiny-hf"));
    cargo::run(import.arg(&package).stdout(Stdio::null()))?;
    Ok(package)
}

/// A soak under way.
struct Soak<'a> {
    right: Vec<u32>,
    lab: &'a Lab,
    cluster: Cluster<'a>,
    schedule: Schedule,
    begin: Instant,
    /// When to look at the processes next.
    look: Instant,
    memory: Memory,
    pauses: Pauses,
    tally: Tally,
}

/// What is counted.
#[derive(Debug, Default)]
struct Tally {
    strict: usize,
    relaxed: usize,
    /// Relaxed generations in which every token is that of a single machine.
    relaxed_right: usize,
    tokens: usize,
    placements: u64,
    /// Sum over the relaxed generations of the share concealed.
    concealed: f64,
}

impl Soak<'_> {
    fn generate_both(&mut self) -> Result<()> {
        self.generate(Mode::Strict)?;
        self.generate(Mode::Relaxed)
    }

    /// One generation, and what happens meanwhile.
    fn generate(&mut self, mode: Mode) -> Result<()> {
        // All but one may be away.
        let mut leader = self.cluster.lead_some("run", 1)?;
        leader.args(["--sync", mode.name(), "--wire", "f32"]);
        leader.args(["--scheduler", "scheduler-even", "--patience", "60"]);
        let mut generation = Generation::start(leader, TOKENS)?;
        while generation.next(self.next())? {
            self.go_on(Some(&mut generation))?;
        }
        self.take(mode, &generation)
    }

    /// Nobody leads for a while. What the last host's worker takes then is noted.
    fn rest(&mut self, host: u8) -> Result<()> {
        say::step("Resting", format_args!("for {} s", REST.as_secs()));
        let begin = self.begin.elapsed();
        let end = Instant::now() + REST;
        while Instant::now() < end {
            let wait = self.next().min(end);
            thread::sleep(wait.saturating_duration_since(Instant::now()));
            self.go_on(None)?;
        }
        self.memory.rested(host, begin)
    }

    /// When there is something to do next.
    fn next(&self) -> Instant {
        let due = self.begin.checked_add(self.schedule.due());
        due.map_or(self.look, |due| due.min(self.look))
    }

    /// Does what is due, and looks at the processes from time to time.
    fn go_on(&mut self, mut generation: Option<&mut Generation>) -> Result<()> {
        if self.begin.elapsed() >= self.schedule.due() {
            let (at, action) = self.schedule.take();
            self.act(action)
                .with_context(|| format!("{at:.1?} after the beginning"))?;
            if let (Action::Begin(kind, _), Some(generation)) = (action, &mut generation) {
                generation.disturbed(kind);
            }
        }
        let now = Instant::now();
        if now >= self.look {
            self.look = now + LOOK_PERIOD;
            let leader = generation.map(|generation| (1, generation.process()));
            for (host, process) in self.cluster.processes()?.into_iter().chain(leader) {
                self.memory.sample(host, process, self.begin.elapsed())?;
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<()> {
        say::step(
            "Soaking",
            format_args!("{:5.1} s: {action}", self.begin.elapsed().as_secs_f64()),
        );
        match action {
            Action::Lose(share) => {
                let loss = Loss::random(share);
                self.lab.hosts().iter().try_for_each(|host| loss.set(host))
            }
            Action::Begin(Kind::Kill, host) => {
                self.cluster.kill(host);
                Ok(())
            }
            Action::End(Kind::Kill, host) => self.cluster.join(host),
            Action::Begin(Kind::Freeze, host) => self.signal(host, "-STOP"),
            Action::End(Kind::Freeze, host) => self.signal(host, "-CONT"),
            Action::Begin(Kind::Cut, host) => Lab::cut(self.lab.host(host)?, true),
            Action::End(Kind::Cut, host) => Lab::cut(self.lab.host(host)?, false),
        }
    }

    fn signal(&mut self, host: u8, signal: &str) -> Result<()> {
        for (of, process) in self.cluster.processes()? {
            if of == host {
                tools::run("kill", &[signal, &process.to_string()])?;
            }
        }
        Ok(())
    }

    /// Checks a generation that has ended, and counts it.
    fn take(&mut self, mode: Mode, generation: &Generation) -> Result<()> {
        let tokens = generation.tokens()?;
        let right = tokens == self.right;
        self.tally.tokens += tokens.len();
        self.tally.placements += generation.new_placements()?;
        self.pauses.take(mode, generation);
        match mode {
            Mode::Strict => {
                let first = tokens.iter().zip(&self.right).position(|(a, b)| a != b);
                ensure!(right, "a strict generation went wrong at token {first:?}");
                self.tally.strict += 1;
            }
            Mode::Relaxed => {
                self.tally.relaxed += 1;
                self.tally.relaxed_right += usize::from(right);
                self.tally.concealed += generation.concealed();
            }
        }
        Ok(())
    }

    fn report(&self, args: &Args) -> Result<()> {
        let Tally {
            strict,
            relaxed,
            relaxed_right,
            tokens,
            placements,
            concealed,
        } = self.tally;
        println!(
            "{:.1} minutes, seed {}, {} hosts, {} tokens a generation",
            self.begin.elapsed().as_secs_f64() / 60.0,
            args.seed,
            args.hosts,
            TOKENS
        );
        println!("{tokens} tokens, all accounted for; {placements} new placements");
        println!("strict: {strict} generations, every token right");
        println!(
            "relaxed: {relaxed} generations, {:.2} % concealed on average, {relaxed_right} of them with every token as strict",
            100.0 * concealed / relaxed.max(1) as f64
        );
        print!("{}", self.pauses.table());
        self.memory.report()
    }
}
