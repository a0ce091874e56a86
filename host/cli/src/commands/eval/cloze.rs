use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_eval::{Interval, cloze, stories};
use owo_colors::OwoColorize;

use super::conditions::Conditions;
use crate::options::{Global, at_least_one};
use crate::output::{self, Output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo eval cloze --model models/tiny
  halo eval cloze --model models/tiny --loss 0.2 --sync drop-late --seeds 5")]
pub(crate) struct Cloze {
    /// Stories
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = at_least_one())]
    stories: usize,

    /// Seed of the stories
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    conditions: Conditions,
}

impl Cloze {
    pub(super) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let gaps = stories::gaps(self.stories, self.seed);
        let measure = self.conditions.measure(global, output, |reader, progress| {
            Ok(cloze(reader, &gaps, progress)?)
        });
        let found = measure?;
        let whole = found.whole.interval();
        let runs: Vec<f64> = found.runs.iter().map(|run| run.found.accuracy()).collect();
        // Of one run, what other stories would have given; of several, what other losses would have.
        let under = match &found.runs[..] {
            [run] => Some(run.found.interval()),
            _ => Interval::of_runs(&runs).map(|runs| Interval {
                low: runs.low.max(0.0),
                high: runs.high.min(1.0),
                ..runs
            }),
        };
        if output.json() {
            let mut line = serde_json::json!({
                "stories": self.stories,
                "seed": self.seed,
                "accuracy": whole,
            });
            if under.is_some() {
                line["under_loss"] = serde_json::to_value(under)?;
                line["runs"] = runs.into();
                line["conditions"] = self.conditions.json(&found);
            }
            output.line(&line)?;
            return Ok(ExitCode::SUCCESS);
        }
        let shown = |Interval { mean, low, high }: Interval| {
            let [mean, low, high] = [mean, low, high].map(output::percent);
            format!("{mean} ({low} to {high})")
        };
        if let Some(under) = under {
            anstream::println!("{}", self.conditions.described(&found).dimmed());
            anstream::println!("cloze: {} right", shown(under));
            anstream::println!(
                "the whole model: {} of {} stories",
                shown(whole),
                self.stories
            );
        } else {
            anstream::println!("cloze: {} of {} stories right", shown(whole), self.stories);
        }
        Ok(ExitCode::SUCCESS)
    }
}
