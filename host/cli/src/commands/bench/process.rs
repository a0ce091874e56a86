//! Measuring this machine alone, in a process of its own: ONNX Runtime has one thread pool a process, and memory should be one run's.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use halo_engine::{Engine, EngineOptions};
use halo_eval::bench::{self, Options, Run};
use halo_models::Package;
use halo_runtime::{Config, Generator};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::options::{Global, at_least_one};
use crate::output::Output;
use crate::progress;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(super) struct Wanted {
    /// Decode after so many tokens
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "0,512,2048",
        conflicts_with = "cluster"
    )]
    pub(super) context: Vec<usize>,

    /// Read a prompt of so many tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one())]
    pub(super) prompt: usize,

    /// Decode so many tokens in each measurement
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one())]
    pub(super) tokens: usize,

    /// Decode so many generations at once too, and count the tokens of all
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=Generator::MOST as u64),
        conflicts_with = "cluster"
    )]
    pub(super) parallel: Vec<usize>,

    /// Measure so often
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one())]
    pub(super) repeat: usize,

    /// Leave out the matrix products alone, which take the memory of the weights a second time
    #[arg(long, conflicts_with = "cluster")]
    pub(super) no_products: bool,

    /// Compute on any core, as the leader of a cluster does that is compared with
    #[arg(long, hide = true)]
    pub(super) any_core: bool,
}

impl Wanted {
    /// Measures with so many threads in another process. `None` if that fails: it has said why.
    pub(super) fn run(
        &self,
        threads: usize,
        global: &Global,
        package: &Package,
    ) -> Result<Option<Run>> {
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
            .args(self.any_core.then_some("--any-core"))
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

    /// Measures with so many threads in this process.
    pub(super) fn measure(
        &self,
        threads: usize,
        config: &Config,
        package: &Package,
        output: &Output,
    ) -> Result<Run> {
        // Before there are other threads, which have the affinity of the one that starts them.
        if !self.any_core {
            pin(threads)?;
        }
        let bar = progress::bar(output, &format!("measuring with {threads} threads"), 0);
        let engine = Engine::start(&EngineOptions {
            library: config.onnxruntime.clone(),
            threads: Some(threads),
            spin: true,
            slowdown: config.testing.slowdown,
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
