use anyhow::{Context, Result};
use serde::Deserialize;

use super::page::Page;
use super::scale::Scale;
use super::section::{Lines, Section};
use super::speed::spread;
use crate::lab::{Generation, median, number, percent};

pub(super) const SECTION: Section = Section {
    name: "swaps",
    title: "Policies swapped while tokens flow",
    about: "A generation on two hosts that lose a tenth of the packets, while `halo policy activate` puts other schedulers and predictors in force, one \
            after the other, on the leader's core; beside it one in which nothing is swapped. A missing token is an error.",
    commands,
    show,
};

#[derive(Debug, Deserialize)]
struct Report {
    loss: f64,
    quiet: Generation,
    swapped: Generation,
    swaps: Vec<f64>,
}

fn commands(scale: &Scale) -> Vec<String> {
    let tokens = scale.tokens * 8;
    vec![format!(
        "cargo xtask lab swaps --tokens {tokens} --limit 120{}",
        scale.model()
    )]
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let line = results
        .iter()
        .flatten()
        .next()
        .context("nothing was printed")?;
    let report: Report = serde_json::from_value(line.clone())?;
    let row = |what: &str, swaps: String, generation: &Generation| {
        vec![
            what.to_owned(),
            swaps,
            generation.seconds.len().to_string(),
            spread(std::slice::from_ref(generation)),
            number(generation.longest_pause(), 0) + " ms",
        ]
    };
    page.table(&[
        [
            &format!("{} lost", percent(report.loss)),
            "swaps",
            "tokens",
            "ms a token",
            "longest pause",
        ]
        .map(String::from)
        .to_vec(),
        row("nothing swapped", "0".into(), &report.quiet),
        row("swapped", report.swaps.len().to_string(), &report.swapped),
    ]);
    let took = median(report.swaps.iter().copied().map(Some));
    page.line(&format!(
        "Of each swap, {} s passed until every node had answered, the start of the command included.",
        number(took, 2)
    ));
    Ok(())
}
