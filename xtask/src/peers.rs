//! `cargo xtask peers`: HALO and llama.cpp side by side, on one machine, in one run.

mod llama_cpp;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{cargo, paths, say, setup};

use llama_cpp::LlamaCpp;
use table::{Pair, Row};

/// Measure HALO and llama.cpp side by side, with random weights of the same shape.
///
/// The first time it builds llama.cpp from its pinned source on PyPI, into $HALO_DATA/peers (see `setup` for that folder), which
/// takes some minutes, a C++ compiler and a network. The two then take turns, round after round, on the same cores; a ratio is
/// the median of the rounds' ratios. Let the machine do nothing else meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The published model whose shape is measured: see `halo model random --help`.
    #[arg(long, default_value = "tinyllama-1.1b")]
    shape: String,
    /// How HALO's package stores its weights [default: that of `halo model random`]. llama.cpp's are Q4_0, the head too.
    #[arg(long, value_name = "FORMAT")]
    weights: Option<String>,
    /// Threads that compute, each on a core.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,2"
    )]
    threads: Vec<usize>,
    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens to decode.
    #[arg(long, value_name = "N", default_value_t = 128)]
    tokens: usize,
    /// Rounds: how often each is measured.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
}

/// Tokens per second of one measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Speed {
    decode: f64,
    prompt: f64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ready(setup::Args::default())?;
    let halo = cargo::build("halo")?;
    let folder = paths::data()?.join("peers");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let llama = LlamaCpp::provide(&folder)?;
    let package = random_package(&halo, &args.shape, args.weights.as_deref(), &folder)?;
    let gguf = llama.random_model(&package, &folder.join(format!("{}.gguf", args.shape)))?;

    let mut rows: Vec<Row> = (args.threads.iter())
        .flat_map(|&threads| ["decode", "prompt"].map(|what| Row::new(threads, what)))
        .collect();
    for round in 0..args.rounds {
        for (index, &threads) in args.threads.iter().enumerate() {
            say::step(
                "Measuring",
                format_args!(
                    "with {threads} threads, round {} of {}",
                    round + 1,
                    args.rounds
                ),
            );
            let theirs = || llama.measure(&gguf, threads, args.prompt, args.tokens);
            let ours = || measure(&halo, &package, threads, args.prompt, args.tokens);
            // Who goes first changes, since a machine that grows warm or busy would favour the first.
            let (theirs, ours) = if round % 2 == 0 {
                let theirs = theirs()?;
                (theirs, ours()?)
            } else {
                let ours = ours()?;
                (theirs()?, ours)
            };
            rows[2 * index].rounds.push(Pair {
                theirs: theirs.decode,
                ours: ours.decode,
            });
            rows[2 * index + 1].rounds.push(Pair {
                theirs: theirs.prompt,
                ours: ours.prompt,
            });
        }
    }
    println!("{}", conditions(&args, &llama, &package)?);
    print!("{}", table::markdown(&rows));
    Ok(())
}

/// Makes a package with random weights of a published shape in `folder`, and returns where it is.
pub(crate) fn random_package(
    halo: &Path,
    shape: &str,
    weights: Option<&str>,
    folder: &Path,
) -> Result<PathBuf> {
    let package = folder.join(shape);
    let mut command = Command::new(halo);
    command.args(["model", "random", "--overwrite", "--shape", shape]);
    command.args(weights.iter().flat_map(|weights| ["--weights", weights]));
    // What it prints is of no interest here, but its errors and its progress are.
    cargo::run(command.arg(&package).stdout(Stdio::null()))?;
    Ok(package)
}

/// One number of threads of `halo bench --json`.
#[derive(Debug, Deserialize)]
struct Report {
    runs: Vec<Run>,
}

/// Of what was measured, the length of the context or prompt and the seconds a token took.
#[derive(Debug, Deserialize)]
struct Run {
    decode: Vec<(usize, Timing)>,
    prefill: (usize, Timing),
}

#[derive(Debug, Deserialize)]
struct Timing {
    seconds: Vec<f64>,
}

fn measure(
    halo: &Path,
    package: &Path,
    threads: usize,
    prompt: usize,
    tokens: usize,
) -> Result<Speed> {
    let mut command = Command::new(halo);
    command.args(["bench", "--json", "--no-products", "--repeat", "1"]);
    command.args(["--context", "0", "--threads", &threads.to_string()]);
    command.args(["--prompt", &prompt.to_string()]);
    command.args(["--tokens", &tokens.to_string()]).arg(package);
    ours(&output(&mut command)?)
}

fn ours(json: &[u8]) -> Result<Speed> {
    let report: Report = serde_json::from_slice(json)?;
    let run = report
        .runs
        .first()
        .context("`halo bench` measured nothing")?;
    let speed = |timing: &Timing| Some(timing.seconds.first()?.recip());
    let decode = run.decode.first().and_then(|(_, timing)| speed(timing));
    Ok(Speed {
        decode: decode.context("`halo bench` decoded nothing")?,
        prompt: speed(&run.prefill.1).context("`halo bench` read no prompt")?,
    })
}

/// What a program prints, with its errors going where ours do.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", name.display()))?;
    ensure!(
        output.status.success(),
        "{} failed ({}): {}",
        name.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout).trim()
    );
    Ok(output.stdout)
}

/// The name of this machine's processor, or its architecture.
pub(crate) fn processor() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = cpuinfo.lines();
    let name = lines.find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or(std::env::consts::ARCH, |(_, name)| name)
        .to_owned()
}

/// What was measured on what, in a sentence.
fn conditions(args: &Args, llama: &LlamaCpp, package: &Path) -> Result<String> {
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(package.join("manifest.json"))?)?;
    let processor = processor();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!(
        "{}: {} in Q4_0, and HALO {} with {}; {processor}, {cores} cores; tokens per second, \
         {} decoded and a prompt of {}, median of {} rounds (lowest to highest)\n",
        llama.version(),
        args.shape,
        env!("CARGO_PKG_VERSION"),
        manifest["quantisation"],
        args.tokens,
        args.prompt,
        args.rounds,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_halo_bench_prints_is_read() {
        let json = br#"{"halo":"0","runs":[{"threads":1,"decode":[[0,{"seconds":[0.05]}]],"prefill":[512,{"seconds":[0.01]}]}]}"#;
        let expected = Speed {
            decode: 20.0,
            prompt: 100.0,
        };
        assert_eq!(ours(json).unwrap(), expected);
        let nothing = ours(br#"{"runs":[]}"#).unwrap_err().to_string();
        assert!(nothing.contains("measured nothing"), "{nothing}");
    }
}
