use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use halo_engine::{Engine, EngineOptions};
use halo_eval::{CalibrateOptions, CalibrationReport, Documents, KeptShares, Stage, calibrate};
use owo_colors::OwoColorize;

use crate::model_path;
use crate::options::{Global, Text};
use crate::output::{self, Output};
use crate::progress;

/// What was learnt so far, in the package's folder.
const UNFINISHED: &str = ".halo-calibration";

/// How often it is kept.
const EVERY: Duration = Duration::from_secs(30);

/// Learn from text how much each neuron group matters, and keep it in the package
///
/// Runs the text through the model and fits, in closed form, a probe that predicts every group's contribution one round
/// before it is computed. Schedulers and predictors work with what is learnt; a model that is not calibrated works too, but every
/// group counts as equally important. If it is interrupted, the same command goes on where it was. The more the text resembles what the model will write, the better. Blank lines separate
/// its paragraphs.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo model calibrate tinyllama --text stories.txt --text articles.txt:8")]
pub(crate) struct Calibrate {
    /// Model package: a folder, or the name of one in ~/.local/share/halo/models
    model: PathBuf,

    /// Text to learn from, and how many of its paragraphs make a document [default: 1]; may be given several times
    #[arg(long, value_name = "FILE[:PARAGRAPHS]", required = true)]
    text: Vec<Text>,

    /// Learn from this many tokens at most
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

impl Calibrate {
    pub(crate) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let config = global.config()?;
        let package = model_path::open(Some(&self.model), &config)?;
        let texts = self
            .text
            .iter()
            .map(|t| Ok(Documents::from_text(t.name(), &t.read()?, 0, t.paragraphs)))
            .collect::<Result<Vec<_>>>()?;
        let engine = Engine::start(&EngineOptions {
            library: config.onnxruntime.clone(),
            threads: config.threads,
            ..EngineOptions::default()
        })?;
        let options = CalibrateOptions {
            max_tokens: self.max_tokens,
            checkpoint: Some((package.dir().join(UNFINISHED), EVERY)),
            ..CalibrateOptions::default()
        };
        let bar = progress::bar(output, "calibrating", 0);
        let calibrated = calibrate(&engine, &package, &texts, &options, &mut |p| {
            bar.set_message(match p.stage {
                Stage::Running => "reading text",
                Stage::Fitting => "fitting the probe",
            });
            bar.set_length(p.total as u64);
            bar.set_position(p.done as u64);
        })?;
        bar.finish_and_clear();
        package
            .with_calibration(&calibrated.calibration)
            .with_context(|| {
                format!("cannot keep the calibration in {}", package.dir().display())
            })?;
        report(&calibrated.report, output)
    }
}

fn report(report: &CalibrationReport, output: &Output) -> Result<ExitCode> {
    if output.json() {
        output.line(report)?;
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!(
        "{} from {} tokens: probe of rank {}, ridge {}",
        "Calibrated".green().bold(),
        report.tokens,
        report.rank,
        report.ridge
    );
    anstream::println!(
        "Of the squared contribution of a layer's {} groups, kept when the {} with the lowest scores are left out, on text held out:",
        report.groups,
        report.lost
    );
    let row = |k: &KeptShares| {
        let shares = [k.oracle, k.probe, k.static_mean, k.random].map(output::percent);
        std::iter::once(k.text.clone())
            .chain(shares)
            .collect::<Vec<_>>()
    };
    let mut rows = vec![
        ["", "oracle", "probe", "static mean", "random"]
            .map(String::from)
            .to_vec(),
    ];
    rows.extend(report.texts.iter().map(row));
    if report.texts.len() > 1 {
        rows.push(row(&report.overall));
    }
    anstream::print!("{}", output::table(&rows));
    Ok(ExitCode::SUCCESS)
}
