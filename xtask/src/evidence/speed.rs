use anyhow::{Context, Result};
use serde::Deserialize;

use super::page::Page;
use super::plot::Plot;
use super::scale::Scale;
use super::section::{Lines, Section};
use crate::lab::{Generation, median, number, percent};

pub(super) const SECTION: Section = Section {
    name: "speed",
    title: "Time per token against loss",
    about: "Milliseconds a token took, on hosts of the lab that lose packets at random as they arrive: with `strict`, which waits for \
            everything, with `relaxed`, and with the baseline, which is what tensor parallelism over TCP does. The leader has \
            memory for an equal part of the neuron groups only, so that the others have to help. Medians over the runs, in brackets the lowest \
            and the highest; a run of the baseline that is slow is cut short. Two hosts have a core each; three and four compute half \
            as fast as a core, or more slowly where the machine has too few of them.",
    commands,
    show,
};

/// What `cargo xtask lab speedup --json` prints.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    hosts: u8,
    tokens: u32,
    alone: Generation,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    loss: f64,
    mode: String,
    generations: Vec<Generation>,
}

const MODES: [&str; 3] = ["tcp", "strict", "relaxed"];

pub(super) fn commands(scale: &Scale) -> Vec<String> {
    let Scale {
        loss,
        tokens,
        limit,
        rounds,
        ..
    } = scale;
    let command = |&hosts: &u8| {
        let (share, rounds) = if hosts > 2 {
            (" --share 0.5", 1)
        } else {
            ("", *rounds)
        };
        let memory = scale.group_bytes / u64::from(hosts);
        format!(
            "cargo xtask lab speedup --json --hosts {hosts}{share} --memory {memory} --loss {loss} --tokens {tokens} --limit {limit} --rounds {rounds}{}",
            scale.model()
        )
    };
    scale.hosts.iter().map(command).collect()
}

impl Report {
    pub(super) fn read(lines: &Lines) -> Result<Self> {
        let line = lines.first().context("nothing was printed")?;
        Ok(serde_json::from_value(line.clone())?)
    }

    fn row(&self, mode: &str, loss: f64) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.mode == mode && row.loss == loss)
    }

    pub(super) fn losses(&self) -> Vec<f64> {
        let mut losses: Vec<f64> = self.rows.iter().map(|row| row.loss).collect();
        losses.sort_by(f64::total_cmp);
        losses.dedup();
        losses
    }

    /// The median time of a token, in milliseconds.
    pub(super) fn milliseconds(&self, mode: &str, loss: f64) -> Option<f64> {
        median(
            self.row(mode, loss)?
                .generations
                .iter()
                .map(Generation::milliseconds),
        )
    }
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    for lines in results {
        let report = Report::read(lines)?;
        let Report { hosts, tokens, .. } = report;
        let losses = report.losses();
        let line = |mode: &&str| {
            let points = losses
                .iter()
                .filter_map(|&loss| Some((loss, report.milliseconds(mode, loss)?)));
            ((*mode).to_owned(), points.collect())
        };
        let plot = Plot {
            title: format!("{hosts} hosts"),
            y: "ms a token",
            logarithmic: true,
            lines: MODES.iter().map(line).collect(),
        };
        let name = format!("speed-{hosts}");
        page.plot(
            &name,
            &format!("milliseconds a token against loss, {hosts} hosts"),
            plot.svg()?,
        );
        let mut rows = vec![
            [
                "lost",
                "tcp",
                "strict",
                "relaxed",
                "relaxed to tcp",
                "longest pause, relaxed",
                "concealed",
            ]
            .map(String::from)
            .to_vec(),
        ];
        for &loss in &losses {
            let relaxed = report.row("relaxed", loss);
            let of = |figure: &dyn Fn(&Generation) -> Option<f64>| {
                relaxed.and_then(|row| median(row.generations.iter().map(figure)))
            };
            let faster = report
                .milliseconds("tcp", loss)
                .zip(report.milliseconds("relaxed", loss));
            let mut row = vec![percent(loss)];
            row.extend(MODES.iter().map(|mode| {
                report
                    .row(mode, loss)
                    .map_or_else(|| "-".into(), |row| spread(&row.generations))
            }));
            row.push(faster.map_or_else(
                || "-".into(),
                |(tcp, relaxed)| format!("{:.2}x", tcp / relaxed),
            ));
            row.push(number(of(&Generation::longest_pause), 0) + " ms");
            row.push(percent(of(&|g| Some(g.concealed)).unwrap_or(0.0)));
            rows.push(row);
        }
        page.line(&format!(
            "{hosts} hosts, {tokens} tokens; one host alone: {} ms a token.\n",
            number(report.alone.milliseconds(), 1)
        ));
        page.table(&rows);
        if let Some(cost) = cost_of_loss(&report) {
            page.line(&format!(
                "Each 1 % of packets lost costs the baseline {cost:.0} ms a token, by the most loss at which it got anywhere.\n"
            ));
        }
    }
    Ok(())
}

/// What each hundredth of packets lost costs over TCP, in milliseconds a token.
fn cost_of_loss(report: &Report) -> Option<f64> {
    let lossless = report.milliseconds("tcp", 0.0)?;
    let most = report
        .losses()
        .into_iter()
        .rfind(|&loss| loss > 0.0 && report.milliseconds("tcp", loss).is_some())?;
    Some((report.milliseconds("tcp", most)? - lossless) / (most * 100.0))
}

/// Milliseconds a token: the median, the lowest and the highest.
pub(super) fn spread(generations: &[Generation]) -> String {
    let mut each: Vec<f64> = generations
        .iter()
        .filter_map(Generation::milliseconds)
        .collect();
    each.sort_by(f64::total_cmp);
    let middle = number(median(each.iter().copied().map(Some)), 1);
    match each[..] {
        [] => "cut short".into(),
        [_] => middle,
        [low, .., high] => format!("{middle} ({low:.1}–{high:.1})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loss_costs_tcp_is_by_the_hundredth() {
        let generation = |ms: f64| Generation {
            seconds: vec![0.0, ms / 1e3],
            ..Generation::default()
        };
        let row = |loss, ms: f64| Row {
            loss,
            mode: "tcp".into(),
            generations: vec![generation(ms), generation(ms + 2.0)],
        };
        let report = Report {
            hosts: 2,
            tokens: 2,
            alone: generation(9.0),
            rows: vec![
                row(0.0, 10.0),
                row(0.05, 510.0),
                // Nothing came of it.
                Row {
                    loss: 0.2,
                    mode: "tcp".into(),
                    generations: vec![Generation::default()],
                },
            ],
        };
        assert!((cost_of_loss(&report).unwrap() - 100.0).abs() < 1e-9);
        assert_eq!(spread(&report.rows[1].generations), "511.0 (510.0–512.0)");
        assert_eq!(spread(&report.rows[2].generations), "cut short");
    }
}
