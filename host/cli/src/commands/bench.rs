mod system;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use halo_engine::{Engine, EngineOptions};
use halo_eval::bench::{self, Machine, Options, Report, Run};
use halo_models::Package;
use halo_runtime::{Config, Generator};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::model_path;
use crate::options::{Global, at_least_one};
use crate::output::Output;
use crate::progress;

/// Measure how fast a model runs on this machine, and in how much memory
///
/// Each number of threads is measured in a process of its own, on as many cores. Beside decoding and reading a prompt, the model's
/// matrix products are measured alone: what there is besides them is HALO's own time. So are calls of policies, with what goes into
/// the sandbox and comes out. Figures are medians, with the lowest and the highest in brackets.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo bench tinyllama --threads 1,2,4
  halo bench tinyllama --parallel 1,2,4,8
  halo bench models/tiny --report > report.txt
  halo bench models/tiny --json > before.json
  halo bench models/tiny --compare before.json")]
pub(crate) struct Bench {
    /// Model package: a folder, or the name of one in ~/.local/share/halo/models [default: tiny]
    model: Option<PathBuf>,

    /// Threads that compute [default: as many as there are cores]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = at_least_one())]
    threads: Vec<usize>,

    /// Decode after so many tokens
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "0,512,2048"
    )]
    context: Vec<usize>,

    /// Read a prompt of so many tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one())]
    prompt: usize,

    /// Decode so many tokens in each measurement
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one())]
    tokens: usize,

    /// Decode so many generations at once too, and count the tokens of all
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=Generator::MOST as u64)
    )]
    parallel: Vec<usize>,

    /// Measure so often
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one())]
    repeat: usize,

    /// Leave out the matrix products alone, which take the memory of the weights a second time
    #[arg(long)]
    no_products: bool,

    /// Compare with what `halo bench --json` wrote before
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    /// Say more about the machine too, as text to send to others
    #[arg(long, conflicts_with = "compare")]
    report: bool,

    /// Measure in this process, and print the measurements of one number of threads as JSON
    #[arg(long, hide = true)]
    here: bool,
}

impl Bench {
    pub(crate) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let config = global.config()?;
        let package = model_path::open(self.model.as_deref(), &config)?;
        let before = self.compare.as_deref().map(read).transpose()?;
        let machine = Machine::this();
        let mut threads = self.threads.clone();
        if threads.is_empty() {
            threads.push(machine.cores);
        }
        if self.here {
            let run = self.measure(threads[0], &config, &package, output)?;
            output.line(&run)?;
            return Ok(ExitCode::SUCCESS);
        }
        for &threads in &threads {
            ensure!(
                threads <= machine.cores,
                "{threads} threads were asked for, and there are {} cores: more threads than cores only wait for one another",
                machine.cores
            );
        }
        let mut runs = Vec::new();
        for threads in threads {
            let Some(run) = self.run_child(threads, global, &package)? else {
                // It has said why.
                return Ok(ExitCode::FAILURE);
            };
            runs.push(run);
        }
        let report = Report {
            halo: env!("CARGO_PKG_VERSION").into(),
            machine,
            model: bench::Model::of(&package),
            runs,
        };
        if output.json() {
            output.line(&report)?;
        } else {
            if self.report {
                anstream::println!("{}", system::describe());
            }
            anstream::print!("{}", table::show(&report, before.as_ref()));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Measures in a process of its own: ONNX Runtime has one thread pool a process, and memory should be one run's.
    fn run_child(&self, threads: usize, global: &Global, package: &Package) -> Result<Option<Run>> {
        let list = |numbers: &[usize]| {
            let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
            numbers.join(",")
        };
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["bench", "--here", "--threads", &threads.to_string()])
            .args(["--context", &list(&self.context)])
            .args(["--prompt", &self.prompt.to_string()])
            .args(["--tokens", &self.tokens.to_string()])
            .args(
                (!self.parallel.is_empty())
                    .then(|| ["--parallel".to_owned(), list(&self.parallel)])
                    .into_iter()
                    .flatten(),
            )
            .args(["--repeat", &self.repeat.to_string()])
            .args(self.no_products.then_some("--no-products"))
            .args(global.json.then_some("--json"))
            .arg("--")
            .arg(package.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(config) = &global.config {
            command.env("HALO_CONFIG", config);
        }
        let child = command
            .spawn()
            .and_then(|child| child.wait_with_output())
            .context("cannot run the process that measures")?;
        if !child.status.success() {
            // The words are on standard error already, unless programs read.
            print!("{}", String::from_utf8_lossy(&child.stdout));
            return Ok(None);
        }
        serde_json::from_slice(&child.stdout)
            .map(Some)
            .context("the process that measures did not tell what it measured")
    }

    fn measure(
        &self,
        threads: usize,
        config: &Config,
        package: &Package,
        output: &Output,
    ) -> Result<Run> {
        // Before there are other threads, which have the affinity of the one that starts them.
        pin(threads)?;
        let bar = progress::bar(output, &format!("measuring with {threads} threads"), 0);
        let engine = Engine::start(&EngineOptions {
            library: config.onnxruntime.clone(),
            threads: Some(threads),
            spin: true,
        })?;
        let options = Options {
            contexts: self.context.clone(),
            prompt: self.prompt,
            tokens: self.tokens,
            parallel: self.parallel.clone(),
            repeats: self.repeat,
            products: !self.no_products,
        };
        let run = bench::bench(&engine, package, &options, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        Ok(run)
    }
}

/// Keeps this process to the first `cores` of the cores that it may run on.
fn pin(cores: usize) -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut wanted = CpuSet::new();
    (0..CpuSet::count())
        .filter(|&core| allowed.is_set(core).unwrap_or(false))
        .take(cores)
        .try_for_each(|core| wanted.set(core))?;
    sched_setaffinity(this, &wanted)
        .with_context(|| format!("cannot keep the process to {cores} cores"))
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is not what `halo bench --json` of this version writes",
            path.display()
        )
    })
}
