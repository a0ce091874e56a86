use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::page::Page;
use super::quality::{change, interval, share};
use super::scale::Scale;
use super::section::{Lines, Section};
use crate::lab::{median, number, percent};

pub(super) const SECTION: Section = Section {
    name: "cluster",
    title: "Quality and speed on a real cluster",
    about: "The same texts, read token after token by a leader and three workers in the lab, `relaxed`. The first rows lose packets \
            on all hosts. Then one host loses a fifth of what arrives: it has the groups that matter least, any, or those that matter \
            most; and last it is left out. The hosts share this machine's cores, so the time of a token is for comparison within the \
            table only.",
    commands,
    show,
};

fn commands(scale: &Scale) -> Vec<String> {
    let Scale {
        documents: [_, documents],
        stories: [_, stories],
        repeats,
        cluster_loss: loss,
        bad_host: bad,
        ..
    } = scale;
    [
        format!("--hosts 4 --loss {loss}"),
        format!("--hosts 4 --one-bad-host {bad}"),
        "--hosts 3 --loss 0".to_owned(),
    ]
    .map(|conditions| {
        format!("cargo xtask lab quality {conditions} --documents {documents} --stories {stories} --rounds {repeats}")
    })
    .into()
}

#[derive(Debug, Deserialize)]
struct Row {
    loss: f64,
    placement: String,
    perplexity: Vec<Value>,
    cloze: Value,
}

impl Row {
    fn shown(&self, loss: String) -> Option<Vec<String>> {
        let [stories, books, time] = &self.perplexity[..] else {
            return None;
        };
        let tallies = stories["conditions"]["tallies"].as_array()?;
        let concealed = tallies.iter().map(|tally| tally["concealed"].as_f64());
        let times = time["milliseconds_per_token"]
            .as_array()?
            .iter()
            .map(Value::as_f64);
        Some(vec![
            loss,
            self.placement.clone(),
            change(interval(&stories["change"])?),
            change(interval(&books["change"])?),
            share(interval(&self.cloze["under_loss"])?),
            share(interval(&self.cloze["accuracy"])?),
            percent(median(concealed)?),
            number(median(times), 1),
        ])
    }
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let mut rows = vec![
        [
            "lost",
            "placement",
            "perplexity of stories",
            "of books",
            "words known",
            "by one machine",
            "concealed",
            "ms a token",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let whom = ["on all four hosts", "on one of four", "three hosts"];
    for (lines, whom) in results.iter().zip(whom) {
        for line in lines {
            let row: Row = serde_json::from_value(line.clone())?;
            let shown = row.shown(format!("{} {whom}", percent(row.loss)));
            rows.push(shown.context("`halo eval --json` printed something else")?);
        }
    }
    page.table(&rows);
    Ok(())
}
