mod cloze;
mod conditions;
mod perplexity;
mod predictor;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use halo_engine::{Engine, EngineOptions};
use halo_eval::Documents;
use halo_runtime::Config;

use cloze::Cloze;
use perplexity::Perplexity;
use predictor::Predictor;

use crate::options::{Global, Text};
use crate::output::Output;

/// Measure how good a model is
#[derive(Debug, Subcommand)]
pub(crate) enum Eval {
    /// How surprised the model is by a text: 1 is not at all, lower is better
    ///
    /// The whole model runs on this machine. Blank lines separate a text's paragraphs; each document is read by itself.
    ///
    /// With --loss, it is read as a cluster that loses packets would, which is imitated; with --cluster, by a real one. Then the
    /// whole model reads it too, for comparison.
    Perplexity(Perplexity),

    /// How often the model knows the one word that is right
    ///
    /// In short stories, something is lost and found again; the last time it is mentioned, the model has to say what it is. That
    /// is what the default model was trained on, so it says something of that model only. Under --loss or --cluster as for
    /// perplexity.
    Cloze(Cloze),

    /// What a predictor knows of which neuron groups will matter
    ///
    /// Runs text through the model and compares four ways to rank each layer's groups for every token: by the predictor's scores,
    /// by their mean importance, by chance, and by what they really contribute (the oracle), which nobody knows in advance.
    /// Says how well each agrees with the contributions, and what is left without the groups that it ranks lowest: the share
    /// of the squared contribution, layer by layer, and by how much the perplexity rises. "Gap closed" is how far the
    /// predictor gets from the mean, 0 %, to the oracle, 100 %. Use text that the model was not calibrated on.
    Predictor(Predictor),
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
            Self::Cloze(cloze) => cloze.execute(global, output),
            Self::Predictor(predictor) => predictor.execute(global, output),
        }
    }
}

fn engine(config: &Config) -> Result<Engine> {
    Ok(Engine::start(&EngineOptions {
        library: config.onnxruntime.clone(),
        threads: config.threads,
        ..EngineOptions::default()
    })?)
}
