use anyhow::{Context, Result};
use serde::Deserialize;

use super::page::Page;
use super::scale::Scale;
use super::section::{Lines, Section};
use super::speed::spread;
use crate::lab::{Generation, median, number, percent};

pub(super) const SECTION: Section = Section {
    name: "unequal",
    title: "Unequal hosts",
    about: "Milliseconds a token on four hosts of which the second and third are half as fast as the first and the last a quarter, by \
            scheduler: equal shares, and what `scheduler-halo` makes of it. In the second row the last host loses a fifth of its packets.",
    commands,
    show,
};

/// What `cargo xtask lab unequal --json` prints.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    shares: Vec<f64>,
    loss: f64,
    alone: Generation,
    generations: Vec<(String, Vec<Generation>)>,
}

pub(super) fn commands(scale: &Scale) -> Vec<String> {
    let Scale { tokens, rounds, .. } = scale;
    // Plans settle after some seconds.
    let tokens = 4 * tokens;
    let command = |loss| {
        format!(
            "cargo xtask lab unequal --json --loss {loss} --tokens {tokens} --rounds {rounds}{}",
            scale.model()
        )
    };
    ["0", "0.2"].map(command).into()
}

impl Report {
    pub(super) fn read(lines: &Lines) -> Result<Self> {
        let line = lines.first().context("nothing was printed")?;
        Ok(serde_json::from_value(line.clone())?)
    }

    /// The median time of a token by a scheduler, in milliseconds.
    pub(super) fn milliseconds(&self, scheduler: &str) -> Option<f64> {
        let (_, generations) = self
            .generations
            .iter()
            .find(|(name, _)| name == scheduler)?;
        median(generations.iter().map(Generation::milliseconds))
    }
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let mut rows = vec![
        [
            "hosts, of a core's speed",
            "lost at the last",
            "first host alone",
            "scheduler",
            "groups",
            "ms a token",
            "longest pause",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for lines in results {
        let report = Report::read(lines)?;
        let list = |shares: &mut dyn Iterator<Item = f64>| {
            shares
                .map(|s| format!("{:.0} %", 100.0 * s))
                .collect::<Vec<_>>()
                .join(", ")
        };
        for (scheduler, generations) in &report.generations {
            let groups = generations
                .first()
                .map(|g| list(&mut g.shares.iter().map(|(_, share)| *share)));
            rows.push(vec![
                list(&mut report.shares.iter().copied()),
                percent(report.loss),
                number(report.alone.milliseconds(), 1),
                format!("`{scheduler}`"),
                groups.unwrap_or_default(),
                spread(generations),
                number(median(generations.iter().map(Generation::longest_pause)), 0) + " ms",
            ]);
        }
    }
    page.table(&rows);
    Ok(())
}
