mod predictor;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use halo_engine::{Backbone, Engine, EngineOptions};
use halo_eval::{Documents, Lossy, LossyOptions, Rule, perplexity};
use halo_fabric::Encoding;
use halo_runtime::Config;

use predictor::Predictor;

use crate::model_path;
use crate::options::{Conceal, Global, ModelOption, Text, at_least_one, share};
use crate::output::Output;
use crate::progress;

/// Measure how good a model is
#[derive(Debug, Subcommand)]
pub(crate) enum Eval {
    /// How surprised the model is by a text: 1 is not at all, lower is better
    ///
    /// The whole model runs on this machine. Blank lines separate a text's paragraphs; each document is read by itself.
    Perplexity(Perplexity),

    /// What a predictor knows of which neuron groups will matter
    ///
    /// Runs text through the model and compares four ways to rank each layer's groups for every token: by the predictor's scores,
    /// by their mean importance, by chance, and by what they really contribute (the oracle), which nobody knows in advance.
    /// Says how well each agrees with the contributions, and what is left without the groups that it ranks lowest: the share
    /// of the squared contribution, layer by layer, and by how much the perplexity rises. "Gap closed" is how far the
    /// predictor gets from the mean, 0 %, to the oracle, 100 %. Use text that the model was not calibrated on.
    Predictor(Predictor),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo eval perplexity --text models/tests/data/valid-stories.txt --documents 60
  halo eval perplexity --text models/tests/data/valid-books.txt:12 --documents 60")]
pub(crate) struct Perplexity {
    #[command(flatten)]
    model: ModelOption,

    #[command(flatten)]
    texts: Texts,

    #[command(flatten)]
    lossy: LossyArgs,
}

/// What is to be predicted.
#[derive(Debug, Args)]
struct Texts {
    /// Text to predict, and how many of its paragraphs make a document [default: 1]; may be given several times
    #[arg(long, value_name = "FILE[:PARAGRAPHS]", required = true)]
    text: Vec<Text>,

    /// Documents of each text to use at most
    #[arg(long, value_name = "N")]
    documents: Option<usize>,
}

/// A cluster to imitate.
#[derive(Debug, Args)]
#[command(next_help_heading = "Loss")]
struct LossyArgs {
    /// Spread the groups over a leader and so many workers, evenly, as a cluster would
    #[arg(long, value_name = "N", default_value_t = 3, requires = "loss", value_parser = at_least_one())]
    workers: usize,

    /// Lose this share of the packets with workers' results, such as 0.1, and ask for nothing again
    #[arg(long, value_name = "SHARE", value_parser = share)]
    loss: Option<f64>,

    /// Seed of the choice which packets to lose
    #[arg(long, value_name = "N", default_value_t = 0, requires = "loss")]
    loss_seed: u64,

    /// What takes the place of what is lost
    #[arg(long, value_enum, default_value = "zero", requires = "loss")]
    conceal: Conceal,
}

impl Texts {
    fn read(&self) -> Result<Vec<Documents>> {
        let read = |text: &Text| {
            let mut documents =
                Documents::from_text(text.name(), &text.read()?, 0, text.paragraphs);
            let most = self.documents.unwrap_or(usize::MAX);
            documents.texts.truncate(most);
            Ok(documents)
        };
        self.text.iter().map(read).collect()
    }
}

impl Eval {
    pub(crate) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        match self {
            Self::Perplexity(perplexity) => perplexity.execute(global, output),
            Self::Predictor(predictor) => predictor.execute(global, output),
        }
    }
}

impl Perplexity {
    /// A cluster's feed-forward; without loss to imitate, that of a leader by itself.
    fn lossy(&self) -> LossyOptions {
        LossyOptions {
            workers: self.lossy.loss.map_or(0, |_| self.lossy.workers),
            loss: self.lossy.loss.unwrap_or(0.0),
            conceal: self.lossy.conceal.into(),
            encoding: Encoding::Q8,
            seed: self.lossy.loss_seed,
        }
    }

    fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let config = global.config()?;
        let package = model_path::open(self.model.model.as_deref(), &config)?;
        let documents = self.texts.read()?;
        let engine = engine(&config)?;
        let mut backbone = Backbone::load(&engine, &package)?;
        let mut feed_forward = Lossy::load(&engine, &package, &self.lossy())?;
        let tokenizer = package.tokenizer()?;
        for documents in documents {
            let bar = progress::bar(output, &documents.name, 0);
            let result = perplexity(
                &mut backbone,
                &mut feed_forward,
                &tokenizer,
                &documents.texts,
                &Rule::default(),
                &mut |p| {
                    bar.set_length(p.total as u64);
                    bar.set_position(p.done as u64);
                },
            )?;
            bar.finish_and_clear();
            if output.json() {
                output.line(&serde_json::json!({ "text": documents.name, "perplexity": result.value, "tokens": result.tokens }))?;
            } else {
                anstream::println!(
                    "{}: perplexity {:.4} over {} tokens",
                    documents.name,
                    result.value,
                    result.tokens
                );
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn engine(config: &Config) -> Result<Engine> {
    Ok(Engine::start(&EngineOptions {
        library: config.onnxruntime.clone(),
        threads: config.threads,
        ..EngineOptions::default()
    })?)
}
