use anyhow::Result;
use serde::Deserialize;

use super::page::Page;
use super::scale::Scale;
use super::section::{Lines, Section};
use super::speed::spread;
use crate::lab::{Generation, median, number};

pub(super) const SECTION: Section = Section {
    name: "loading",
    title: "Cold start and streaming",
    about: "One host whose disk reads 90 MB/s, as an SD card does, and whose page cache has nothing of the model. `--start` begins when that \
            share of every layer's importance is loaded, 1 when all is; `--memory` has room for about half of the groups, and reads the rest \
            anew for every token while it computes.",
    commands,
    show,
};

/// A line of `cargo xtask lab loading`.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    option: String,
    value: String,
    first_token: Vec<f64>,
    generations: Vec<Generation>,
}

pub(super) fn commands(scale: &Scale) -> Vec<String> {
    let memory = if scale.name == "trial" {
        " --memory 1MB"
    } else {
        ""
    };
    let (tokens, rounds) = (scale.tokens.min(12), scale.rounds);
    vec![format!(
        "cargo xtask lab loading --tokens {tokens} --limit 90 --rounds {rounds}{memory}{}",
        scale.model()
    )]
}

/// Seconds to the first token with `--start` at a share.
pub(super) fn first_token(lines: &Lines, share: &str) -> Option<f64> {
    let rows = lines
        .iter()
        .filter_map(|line| serde_json::from_value::<Row>(line.clone()).ok());
    let row = rows
        .into_iter()
        .find(|row| row.option == "--start" && row.value == share)?;
    median(row.first_token.into_iter().map(Some))
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let mut rows = vec![
        ["", "first token after, s", "then ms a token"]
            .map(String::from)
            .to_vec(),
    ];
    for line in results.iter().flatten() {
        let row: Row = serde_json::from_value(line.clone())?;
        let mut first = row.first_token.clone();
        first.sort_by(f64::total_cmp);
        let middle = number(median(first.iter().copied().map(Some)), 2);
        let shown = match first[..] {
            [low, .., high] => format!("{middle} ({low:.2}–{high:.2})"),
            _ => middle,
        };
        rows.push(vec![
            format!("`{} {}`", row.option, row.value),
            shown,
            spread(&row.generations),
        ]);
    }
    page.table(&rows);
    Ok(())
}
