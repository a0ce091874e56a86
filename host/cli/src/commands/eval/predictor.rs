use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use halo_eval::{
    ByLayer, EvalError, Order, OrderReport, PredictorReport, PredictorTrial, Rule, predictor,
    unhurried,
};
use halo_runtime::Policies;
use owo_colors::OwoColorize;

use super::{Texts, engine};
use crate::model_path;
use crate::options::{Global, share};
use crate::output::{self, Output};
use crate::progress;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo eval predictor models/tiny --text models/tests/data/valid-stories.txt --documents 60
  halo eval predictor tinyllama --predictor predictor-static --lost 0.25 --text articles.txt:8")]
pub(crate) struct Predictor {
    /// Model package: a folder, or the name of one in ~/.local/share/halo/models
    model: PathBuf,

    #[command(flatten)]
    texts: Texts,

    /// Leave this share of each layer's groups out
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', default_values_t = [0.1, 0.25, 0.5], value_parser = share)]
    lost: Vec<f64>,

    /// Predictor to measure: a policy's name [default: predictor-probe]
    #[arg(long, value_name = "POLICY")]
    predictor: Option<String>,
}

impl Predictor {
    pub(super) fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        config.policy.predictor = self.predictor.clone().or(config.policy.predictor);
        config.policy.limits = unhurried(&config.policy.limits);
        let package = model_path::open(Some(&self.model), &config)?;
        let documents = self.texts.read()?;
        let policies = Policies::new(&config.policy, &package)?;
        let mean = &policies.model().importance;
        if mean.is_empty() {
            bail!(
                "{} is not calibrated, so there is nothing to choose groups by; `halo model calibrate` does it",
                package.name()
            );
        }
        let engine = engine(&config)?;
        let lost = |share: &f64| (share * package.groups() as f64).round() as usize;
        let lost: Vec<usize> = self.lost.iter().map(lost).collect();
        let mut predict = |layer: usize, hidden: &[f32], scores: &mut Vec<f32>| {
            let fault = policies.predictor().score(layer as u32, hidden, scores);
            fault.map_or(Ok(()), |fault| Err(EvalError::Policy(fault.to_string())))
        };
        for documents in documents {
            let trial = PredictorTrial {
                texts: &documents.texts,
                rule: Rule::default(),
                lost: &lost,
                mean,
            };
            let bar = progress::bar(output, &documents.name, 0);
            let report = predictor(&engine, &package, trial, &mut predict, &mut |p| {
                bar.set_length(p.total as u64);
                bar.set_position(p.done as u64);
            })?;
            bar.finish_and_clear();
            let predictor = policies.predictor().active().name;
            if output.json() {
                let mut line = serde_json::to_value(&report)?;
                line["text"] = documents.name.into();
                line["predictor"] = predictor.into();
                output.line(&line)?;
            } else {
                print(&documents.name, &predictor, &report);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(text: &str, predictor: &str, report: &PredictorReport) {
    let PredictorReport {
        groups,
        whole,
        orders,
        closed,
    } = report;
    anstream::println!(
        "{}: perplexity {:.4} over {} tokens with all {groups} groups of each layer",
        text.bold(),
        whole.value,
        whole.tokens
    );
    let column = |order: &OrderReport| match order.order {
        Order::Oracle => "oracle",
        Order::Predicted => predictor,
        Order::Mean => "mean",
        Order::Random => "chance",
    };
    let head = |title: String| -> Vec<String> {
        let columns = orders.iter().map(column).map(String::from);
        std::iter::once(title).chain(columns).collect()
    };
    let by_layer = |figure: &dyn Fn(&OrderReport) -> &ByLayer, show: &dyn Fn(f64) -> String| {
        let row = |title: String, value: &dyn Fn(&ByLayer) -> f64| {
            let values = orders.iter().map(|order| show(value(figure(order))));
            std::iter::once(title).chain(values).collect::<Vec<_>>()
        };
        let layers = figure(&orders[0]).layers.len();
        let layers = (0..layers).map(|l| row(format!("  layer {l}"), &|f| f.layers[l]));
        let mut rows: Vec<_> = layers.collect();
        rows.push(row("  all layers".into(), &|f| f.overall));
        rows
    };

    let mut rows = vec![head("rank correlation".into())];
    rows.extend(by_layer(&|order| &order.correlation, &|value| {
        // Without the sign of a zero.
        format!("{:.2}", (value * 100.0).round() / 100.0 + 0.0)
    }));
    show(&rows);
    for (index, closed) in closed.iter().enumerate() {
        let mut rows = vec![head(format!("kept without {} of {groups}", closed.groups))];
        rows[0].push("gap closed".into());
        rows.extend(by_layer(&|order| &order.lost[index].kept, &output::percent));
        let gap = |closed: Option<f64>| closed.map_or_else(String::new, output::percent);
        rows.last_mut().expect("a row").push(gap(closed.kept));
        let more = orders.iter().map(|order| {
            let more = order.lost[index].perplexity.value / whole.value - 1.0;
            format!("{:+.2} %", 100.0 * more)
        });
        let mut perplexity: Vec<String> =
            std::iter::once("  perplexity".into()).chain(more).collect();
        perplexity.push(gap(closed.perplexity));
        rows.push(perplexity);
        show(&rows);
    }
}

fn show(rows: &[Vec<String>]) {
    let table = output::table(rows);
    let (head, body) = table.split_once('\n').unwrap_or((&table, ""));
    anstream::println!("\n{}", head.dimmed());
    anstream::print!("{body}");
}
