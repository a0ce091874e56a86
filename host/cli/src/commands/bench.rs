mod cluster;
mod process;
mod spread;
mod system;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use clap::error::ErrorKind;
use halo_eval::bench::{self, Machine, Report};

use crate::model_path;
use crate::options::{Global, at_least_one};
use crate::output::Output;
use cluster::ClusterOptions;
use process::Wanted;

/// Measure how fast a model runs on this machine, and in how much memory
///
/// Each number of threads is measured in a process of its own, on as many cores. Beside decoding and reading a prompt, the model's
/// matrix products are measured alone: what there is besides them is HALO's own time. So are calls of policies, with what goes into
/// the sandbox and comes out. Figures are medians, with the lowest and the highest in brackets.
///
/// With --cluster, a cluster is measured in place of that: its leader alone, and then with one worker more at each step, in order of
/// their names. Each step reads a prompt and writes after it, in turns with the others; a round is measured with each worker as `halo ping`
/// does. Speed is relative to the leader alone. `scheduler-halo` gives workers only what makes a token come sooner, which may be nothing:
/// the row says so then, and `--scheduler scheduler-even` shares out all the same.
#[derive(Debug, Args)]
#[command(
    mut_args(|option| match (option.get_id().as_str(), option.get_help_heading()) {
        ("cluster", _) => option.help("Measure the cluster of this name, which this machine leads"),
        // What nothing else has a use for.
        (_, Some("Cluster" | "Synchronisation" | "Network" | "Testing")) => option.requires("cluster"),
        _ => option,
    }),
    after_help = "Examples:
  halo bench tinyllama --threads 1,2,4
  halo bench tinyllama --parallel 1,2,4,8
  halo bench models/tiny --report > report.txt
  halo bench models/tiny --json > before.json
  halo bench models/tiny --compare before.json
  halo bench tinyllama --cluster home --workers 3
  halo bench tinyllama --cluster home --workers 3 --scheduler scheduler-even --json > cluster.json"
)]
pub(crate) struct Bench {
    /// Model package: a folder, or the name of one in ~/.local/share/halo/models [default: tiny]
    model: Option<PathBuf>,

    /// Threads that compute; of a cluster, its leader's [default: as many as there are cores]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = at_least_one())]
    threads: Vec<usize>,

    #[command(flatten)]
    wanted: Wanted,

    /// Compare with what `halo bench --json` wrote before
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    /// Say more about the machine too, as text to send to others
    #[arg(long, conflicts_with = "compare")]
    report: bool,

    /// Measure in this process, and print the measurements of one number of threads as JSON
    #[arg(long, hide = true, conflicts_with = "cluster")]
    here: bool,

    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Bench {
    pub(crate) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        let package = model_path::open(self.model.as_deref(), &config)?;
        let before = self.compare.as_deref().map(read).transpose()?;
        let machine = Machine::this();
        let mut threads = self.threads.clone();
        if threads.is_empty() {
            threads.push(machine.cores);
        }
        if self.here {
            let run = self.wanted.measure(threads[0], &config, &package, output)?;
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
        let mut report = Report {
            halo: env!("CARGO_PKG_VERSION").into(),
            machine,
            model: bench::Model::of(&package),
            runs: Vec::new(),
            cluster: None,
        };
        if self.cluster.lead.cluster.is_some() {
            if threads.len() > 1 {
                let problem =
                    "a cluster is measured with one number of threads of its leader: --threads N";
                crate::usage_error("bench", ErrorKind::TooManyValues, problem);
            }
            self.cluster.lead.apply("bench", &mut config);
            config.threads = self.threads.first().copied().or(config.threads);
            let measured = self
                .cluster
                .measure(&self.wanted, config, &package, global, output);
            report.cluster = crate::on_runtime(measured)?;
            if report.cluster.is_none() {
                return Ok(ExitCode::FAILURE);
            }
        } else {
            for threads in threads {
                let Some(run) = self.wanted.run(threads, global, &package)? else {
                    // It has said why.
                    return Ok(ExitCode::FAILURE);
                };
                report.runs.push(run);
            }
        }
        self.print(&report, before.as_ref(), output)?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, report: &Report, before: Option<&Report>, output: &Output) -> Result<()> {
        if output.json() {
            return output.line(report);
        }
        if self.report {
            anstream::println!("{}", system::describe());
        }
        anstream::print!("{}", table::show(report, before));
        if let Some(before) = before
            && before.cluster.is_some() != report.cluster.is_some()
        {
            output.note(
                "there is nothing to compare: only one of the two is of a cluster, and was measured with --cluster",
            );
        }
        Ok(())
    }
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
