use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use halo_engine::Engine;
use halo_eval::{Documents, EvalError, Rule, Selections, selections};
use halo_models::Package;
use halo_runtime::Policies;
use owo_colors::OwoColorize;

use super::{Texts, engine};
use crate::model_path;
use crate::options::{Global, ModelOption, share};
use crate::output::{self, Output};
use crate::progress;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo eval groups --text models/tests/data/valid-stories.txt --documents 60
  halo eval groups --text models/tests/data/valid-books.txt:12 --documents 60 --share 0.75,0.5")]
pub(crate) struct Groups {
    #[command(flatten)]
    model: ModelOption,

    #[command(flatten)]
    texts: Texts,

    /// Compute this share of each layer's groups
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', default_values_t = [0.9, 0.75, 0.5], value_parser = share)]
    share: Vec<f64>,

    /// Predictor to measure: a policy's name [default: predictor-probe]
    #[arg(long, value_name = "POLICY")]
    predictor: Option<String>,
}

impl Groups {
    pub(super) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        config.policy.predictor = self.predictor.clone().or(config.policy.predictor);
        let package = model_path::open(self.model.model.as_deref(), &config)?;
        let documents = self.texts.read()?;
        let policies = Policies::new(&config.policy, &package)?;
        if policies.model().importance.is_empty() {
            bail!(
                "{} is not calibrated, so there is nothing to choose groups by; `halo model calibrate` does it",
                package.name()
            );
        }
        let engine = engine(&config)?;
        for documents in documents {
            let bar = progress::bar(output, &documents.name, 0);
            let selections = self.measure(&engine, &package, &policies, &documents, &mut |p| {
                bar.set_length(p.total as u64);
                bar.set_position(p.done as u64);
            })?;
            bar.finish_and_clear();
            let groups = package.groups();
            let predictor = policies.predictor().active().name;
            if output.json() {
                output.line(&json(&documents.name, groups, &predictor, &selections)?)?;
            } else {
                print(&documents.name, groups, &predictor, &selections);
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measure(
        &self,
        engine: &Engine,
        package: &Package,
        policies: &Policies,
        documents: &Documents,
        progress: &mut dyn FnMut(halo_eval::Progress),
    ) -> Result<Selections> {
        let groups = package.groups();
        let count = |share: &f64| ((share * groups as f64).round() as usize).max(1);
        let counts: Vec<usize> = self.share.iter().map(count).collect();
        Ok(selections(
            engine,
            package,
            &documents.texts,
            &Rule::default(),
            &counts,
            &policies.model().importance,
            &mut |layer, hidden, scores| match policies.predictor().score(
                layer as u32,
                hidden,
                scores,
            ) {
                None => Ok(()),
                Some(fault) => Err(EvalError::Predictor(fault.to_string())),
            },
            progress,
        )?)
    }
}

fn json(
    text: &str,
    groups: usize,
    predictor: &str,
    selections: &Selections,
) -> Result<serde_json::Value> {
    let of = |selection: &halo_eval::Selection| {
        let mut line = serde_json::json!({ "groups": selection.groups });
        for (order, perplexity) in &selection.perplexity {
            let name = serde_json::to_value(order)?;
            line[name.as_str().unwrap_or_default()] = perplexity.value.into();
        }
        Ok(line)
    };
    let fewer: Result<Vec<_>> = selections.selections.iter().map(of).collect();
    Ok(serde_json::json!({
        "text": text,
        "groups": groups,
        "predictor": predictor,
        "perplexity": selections.whole.value,
        "tokens": selections.whole.tokens,
        "selections": fewer?,
    }))
}

fn print(text: &str, groups: usize, predictor: &str, selections: &Selections) {
    let whole = &selections.whole;
    anstream::println!(
        "{text}: perplexity {:.4} over {} tokens with all {groups} groups of each layer; with fewer, chosen by",
        whole.value,
        whole.tokens
    );
    let mut rows = vec![
        ["groups", "oracle", predictor, "mean", "chance"]
            .map(String::from)
            .to_vec(),
    ];
    for selection in &selections.selections {
        let more = |(_, p): &(_, halo_eval::Perplexity)| {
            format!("{:+.2} %", 100.0 * (p.value / whole.value - 1.0))
        };
        let mut row = vec![selection.groups.to_string()];
        row.extend(selection.perplexity.iter().map(more));
        rows.push(row);
    }
    let table = output::table(&rows);
    let (head, body) = table.split_once('\n').unwrap_or((&table, ""));
    anstream::println!("{}", head.dimmed());
    anstream::print!("{body}");
}
