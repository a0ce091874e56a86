//! `cargo xtask lab loading`: how soon a model begins to write, and how fast one that does not fit the memory goes on.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Serialize;

use super::bytes;
use super::cgroup::{Disk, Limit};
use super::cluster::Subject;
use super::condition::Condition;
use super::measure::{self, Generation, Length};
use super::network::{Lab, Name, Temporary};
use crate::{paths, say};

/// Measure a cold start, and a model that is read from the disk while it generates.
///
/// On one host of a lab of its own, whose disk is held back and whose package is not in the page cache. Everything loaded first
/// is what a program without parallel loading does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the disk reads, in MB/s: an SD card's 90.
    #[arg(long, value_name = "MB", default_value_t = 90)]
    disk: u64,
    /// Begin when these shares of every layer's importance are loaded.
    #[arg(
        long,
        value_name = "SHARE,...",
        value_delimiter = ',',
        default_value = "1,0.5,0.25"
    )]
    start: Vec<String>,
    /// Then with so much memory for neuron groups, such as 220MB, so that the rest is read anew for every token.
    #[arg(
        long,
        value_name = "SIZE,...",
        value_delimiter = ',',
        default_value = "220MB"
    )]
    memory: Vec<String>,
    #[command(flatten)]
    length: Length,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u32,
    #[command(flatten)]
    subject: Subject,
}

/// One start.
#[derive(Debug, Serialize)]
struct Row {
    option: &'static str,
    value: String,
    /// Seconds from the start of the process to the first token, for each round.
    first_token: Vec<f64>,
    generations: Vec<Generation>,
}

pub(super) fn run(args: &Args, name: &Name) -> Result<()> {
    let (halo, model) = args.subject.provide()?;
    let temporary = Temporary(name.of("loading"));
    let lab = Lab::up(&temporary.0, 1)?;
    let host = lab.host(1)?;
    Limit::Disk(Disk::of(&model)?, bytes(args.disk)).set(host)?;
    let starts = args.start.iter().map(|value| ("--start", value));
    let memories = args.memory.iter().map(|value| ("--memory", value));
    for (option, value) in starts.chain(memories) {
        let mut row = Row {
            option,
            value: value.clone(),
            first_token: Vec::new(),
            generations: Vec::new(),
        };
        for round in 1..=args.rounds {
            say::step(
                "Measuring",
                format_args!("{option} {value}, round {round} of {}", args.rounds),
            );
            forget(&model)?;
            let mut command = host.command(&halo);
            command.args(["run", option, value, "--model"]).arg(&model);
            let began = Instant::now();
            let generation = measure::generation(command, args.length, || {
                row.first_token.push(began.elapsed().as_secs_f64());
                Ok(())
            })?;
            row.generations.push(generation);
        }
        println!("{}", serde_json::to_string(&row)?);
    }
    Ok(())
}

/// Has the system take a package out of the page cache.
fn forget(package: &Path) -> Result<()> {
    for path in paths::files(package)? {
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // What was just written must be on the disk before it can be forgotten.
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .with_context(|| format!("cannot forget {}", path.display()))?;
    }
    Ok(())
}
