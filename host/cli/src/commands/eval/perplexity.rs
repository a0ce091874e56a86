use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_eval::{Interval, Perplexity as Value, Progress, Rule, perplexity};
use owo_colors::OwoColorize;

use super::Texts;
use super::conditions::Conditions;
use crate::options::Global;
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo eval perplexity --text models/tests/data/valid-stories.txt --documents 60
  halo eval perplexity --text models/tests/data/valid-books.txt:12 --documents 60 --loss 0.05 --seeds 5
  halo eval perplexity --text models/tests/data/valid-stories.txt --documents 20 --cluster home --workers 2")]
pub(crate) struct Perplexity {
    #[command(flatten)]
    texts: Texts,

    #[command(flatten)]
    conditions: Conditions,
}

impl Perplexity {
    pub(super) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let texts = self.texts.read()?;
        let total = texts.iter().map(|text| text.texts.len()).sum();
        let found = self
            .conditions
            .measure(global, output, |reader, progress| {
                let mut before = 0;
                let values = texts.iter().map(|text| {
                    let value = perplexity(reader, &text.texts, &Rule::default(), &mut |p| {
                        let done = before + p.done;
                        progress(Progress { done, total, ..p });
                    })?;
                    before += text.texts.len();
                    Ok(value)
                });
                values.collect::<Result<Vec<Value>>>()
            })?;
        let conditions = self.conditions.json(&found);
        if !found.runs.is_empty() && !output.json() {
            anstream::println!("{}", self.conditions.described(&found).dimmed());
        }
        for (index, (text, whole)) in texts.iter().zip(&found.whole).enumerate() {
            let values: Vec<f64> = found.runs.iter().map(|r| r.found[index].value).collect();
            let changes: Vec<f64> = values.iter().map(|v| v / whole.value - 1.0).collect();
            let (name, value, tokens) = (&text.name, whole.value, whole.tokens);
            let change = Interval::of_runs(&changes);
            if output.json() {
                let mut line =
                    serde_json::json!({ "text": name, "perplexity": value, "tokens": tokens });
                if change.is_some() {
                    line["change"] = serde_json::to_value(change)?;
                    line["runs"] = values.into();
                    line["conditions"] = conditions.clone();
                }
                output.line(&line)?;
            } else if let Some(Interval { mean, low, high }) = change {
                let lossy = value * (1.0 + mean);
                let percent = |change: f64| format!("{:+.2}", 100.0 * change);
                let between = match values.len() {
                    1 => String::new(),
                    _ => format!(" ({} to {})", percent(low), percent(high)),
                };
                anstream::println!(
                    "{name}: perplexity {lossy:.4} over {tokens} tokens; {} %{between} on the whole model's {value:.4}",
                    percent(mean)
                );
            } else {
                anstream::println!("{name}: perplexity {value:.4} over {tokens} tokens");
            }
        }
        if self.conditions.is_real() {
            let tokens: usize = found.whole.iter().map(|value| value.tokens).sum();
            let seconds = found.runs.iter().map(|run| run.seconds / tokens as f64);
            let milliseconds: Vec<f64> = seconds.map(|seconds| 1e3 * seconds).collect();
            if let Some(mean) = Interval::of_runs(&milliseconds).map(|i| i.mean) {
                if output.json() {
                    output.line(&serde_json::json!({ "milliseconds_per_token": milliseconds }))?;
                } else {
                    anstream::println!("{mean:.2} ms a token");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
