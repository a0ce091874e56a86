//! `cargo xtask lab quality`: what loss costs in quality, on a real cluster.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::cluster::{Cluster, Program, Transport};
use super::condition::Condition;
use super::loss::{self, Loss};
use super::network::{Lab, Name, Temporary};
use crate::{cargo, paths, say};

/// All neuron groups of the default model take 2.2 MB of memory; the hosts have a little more together.
const MEMORY: u64 = 2_300_000;

/// Measure what lost packets cost in quality: how well the default model predicts text, and how often it knows the one right word.
///
/// In a lab of its own, whose hosts have memory for equal parts of the model, so that each has to help. They read stories and books token
/// after token as they would generate, and the change is to the whole model on one machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Hosts: one leads, the others are workers.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=16))]
    hosts: u8,
    /// Shares of packets to lose.
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', value_parser = loss::share, default_value = "0,0.05,0.2")]
    loss: Vec<f64>,
    /// Only the last host loses packets, of those that arrive there.
    #[arg(long)]
    one_bad_host: bool,
    /// Which groups each host has, by the names of `halo eval`.
    #[arg(
        long,
        value_name = "PLACEMENT,...",
        value_delimiter = ',',
        default_value = "aware"
    )]
    placement: Vec<String>,
    /// Whom rounds wait for, by the names of `halo eval`.
    #[arg(long, value_name = "MODE", default_value = "relaxed")]
    sync: String,
    /// Documents of stories and of books to predict.
    #[arg(long, value_name = "N", default_value_t = 10)]
    documents: u32,
    /// Stories of which a word has to be known.
    #[arg(long, value_name = "N", default_value_t = 25)]
    stories: u32,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: u32,
    #[command(flatten)]
    program: Program,
}

/// What `halo eval --json` found under one condition.
#[derive(Debug, Serialize)]
struct Row {
    loss: f64,
    placement: String,
    /// Of each text, and the time of a token.
    perplexity: Vec<Value>,
    cloze: Value,
}

pub(super) fn run(args: &Args, name: &Name) -> Result<()> {
    let halo = args.program.provide()?;
    let model = paths::root().join("models/tiny");
    let temporary = Temporary(name.of("quality"));
    let lab = Lab::up(&temporary.0, args.hosts)?;
    let memory = (MEMORY / u64::from(args.hosts)).to_string();
    let options = vec!["--memory".to_owned(), memory.clone()];
    let cluster = Cluster::start_with(&lab, &halo, &model, Transport::Udp, |_| options.clone())?;
    let lossy = if args.one_bad_host {
        &lab.hosts()[lab.hosts().len() - 1..]
    } else {
        lab.hosts()
    };
    let eval = |what: &str, placement: &str, more: &[String]| -> Result<Vec<Value>> {
        let mut command = cluster.lead(&format!("eval {what}"))?;
        command.args(["--json", "--memory", &memory, "--placement", placement]);
        command.args(["--sync", &args.sync, "--seeds", &args.rounds.to_string()]);
        let output = cargo::output(command.args(more))?;
        let line = |line| {
            serde_json::from_str(line).with_context(|| format!("`halo eval` printed `{line}`"))
        };
        output.lines().map(line).collect()
    };
    let data = paths::root().join("models/tests/data");
    let text = |file: &str| ["--text".to_owned(), format!("{}/{file}", data.display())];
    let texts: Vec<String> = [text("valid-stories.txt"), text("valid-books.txt:12")]
        .concat()
        .into_iter()
        .chain(["--documents".to_owned(), args.documents.to_string()])
        .collect();
    let stories = ["--stories".to_owned(), args.stories.to_string()];
    for &loss in &args.loss {
        for placement in &args.placement {
            say::step("Measuring", format_args!("{placement} at {loss}"));
            lossy
                .iter()
                .try_for_each(|host| Loss::random(loss).set(host))?;
            let row = Row {
                loss,
                placement: placement.clone(),
                perplexity: eval("perplexity", placement, &texts)?,
                cloze: eval("cloze", placement, &stories)?
                    .pop()
                    .unwrap_or_default(),
            };
            Loss::None.set(&lab.hosts()[0])?;
            lossy.iter().try_for_each(|host| Loss::None.set(host))?;
            println!("{}", serde_json::to_string(&row)?);
        }
    }
    Ok(())
}
