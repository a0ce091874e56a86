use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use halo_models::{PublishedShape, RandomOptions, WeightFormat, random};

use crate::commands::model;
use crate::output::Output;
use crate::progress;

/// Make a package with random weights in the shape of a published model, to measure speed.
///
/// Speed and memory depend on a model's shape and not on its weights, so a cluster can be measured with a model that need not be
/// downloaded. What such a model writes is nonsense.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo model random --shape tinyllama-1.1b /tmp/tinyllama-random
  halo run --model /tmp/tinyllama-random --ignore-eos -n 64 \"a\"")]
pub(crate) struct Random {
    /// The package to make
    destination: PathBuf,

    /// The published model
    #[arg(long, value_parser = shapes())]
    shape: PublishedShape,

    /// How weights are stored: f32, f16, q4, q8, or with a block size, such as q4:64
    #[arg(long, value_name = "FORMAT", default_value = "q4")]
    weights: WeightFormat,

    /// Other seeds give other weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Replace a package that is there already
    #[arg(long)]
    overwrite: bool,
}

fn shapes() -> impl TypedValueParser<Value = PublishedShape> {
    PossibleValuesParser::new(PublishedShape::ALL.map(PublishedShape::name))
        .try_map(|name| name.parse::<PublishedShape>())
}

impl Random {
    pub(crate) fn execute(self, output: &Output) -> Result<ExitCode> {
        let options = RandomOptions {
            weights: self.weights,
            seed: self.seed,
            overwrite: self.overwrite,
            ..RandomOptions::default()
        };
        let bar = progress::bar(output, &format!("making {}", self.shape), 0);
        let package = random(&self.shape.shape(), &self.destination, &options, &mut |p| {
            bar.set_length(p.total as u64);
            bar.set_position(p.done as u64);
        })?;
        bar.finish_and_clear();
        model::describe(&package, output)
    }
}
