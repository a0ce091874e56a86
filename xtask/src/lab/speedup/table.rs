//! What was measured, for people.

use std::fmt::Write as _;

use super::{Mode, Report, Row};
use crate::lab::measure::Generation;

/// A table in Markdown, readable as it is, above it the conditions.
pub(super) fn show(report: &Report) -> String {
    let Report {
        halo,
        machine,
        cores,
        kernel,
        model,
        hosts,
        tokens,
        limit_seconds,
        ..
    } = report;
    let share = report.share.map_or("a core each".into(), |share| {
        format!("{share} of the speed of a core each")
    });
    let memory = report.memory.as_ref().map_or_else(String::new, |bytes| {
        format!(", the leader's memory {bytes}")
    });
    let burst = report.burst.map_or("at random".into(), |length| {
        format!("in bursts of {length}")
    });
    let mut text = format!(
        "HALO {halo}, {model}, {hosts} hosts with {share}{memory}, on {machine} with {cores} cores, Linux {kernel}. {tokens} tokens after a \
         short prompt, cut short after {limit_seconds} s; packets lost {burst} on arrival, seeded by the kernel; TCP with cubic.\n"
    );
    for mode in [Mode::Tcp, Mode::Strict, Mode::Relaxed] {
        let mut generations = report
            .rows
            .iter()
            .filter(|row| row.mode == mode)
            .flat_map(|row| &row.generations);
        if let Some(Generation { shares, .. }) = generations.next() {
            let shares: Vec<_> = shares.iter().map(|(_, share)| percent(*share)).collect();
            let _ = writeln!(
                text,
                "{}: neuron groups {}, the leader's first.",
                mode.name(),
                shares.join(", ")
            );
        }
    }
    let _ = writeln!(
        text,
        "One host alone: {} ms/token.\n",
        number(report.alone.milliseconds(), 1)
    );
    text + &table(&report.rows)
}

/// Lossless first, and for each share of loss the modes in their order.
fn table(rows: &[Row]) -> String {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| {
        a.loss
            .total_cmp(&b.loss)
            .then((a.mode as u8).cmp(&(b.mode as u8)))
    });
    let mut cells = vec![
        [
            "loss",
            "mode",
            "ms/token",
            "to lossless",
            "against tcp",
            "longest pause",
            "concealed",
            "asked again",
        ]
        .map(String::from),
    ];
    for row in sorted {
        let of = |loss: f64, mode| rows.iter().find(|row| row.loss == loss && row.mode == mode);
        let times = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}x"));
        let asked = row
            .generations
            .iter()
            .map(|g| g.asked_again.map(|n| n as f64));
        cells.push([
            percent(row.loss),
            row.mode.name().into(),
            number(
                median(row.generations.iter().map(Generation::milliseconds)),
                1,
            ),
            times(of(0.0, row.mode).and_then(|lossless| ratio(row, lossless))),
            times(of(row.loss, Mode::Tcp).and_then(|tcp| ratio(tcp, row))),
            number(
                median(row.generations.iter().map(Generation::longest_pause)),
                0,
            ) + " ms",
            percent(median(row.generations.iter().map(|g| Some(g.concealed))).unwrap_or(0.0)),
            number(median(asked), 0),
        ]);
    }
    let widths: [usize; 8] = std::array::from_fn(|column| {
        let widths = cells.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    });
    let dashes = std::array::from_fn(|column| match column {
        1 => "-".repeat(widths[column]),
        _ => "-".repeat(widths[column] - 1) + ":",
    });
    cells.insert(1, dashes);
    let line = |row: &[String; 8]| {
        let cells =
            row.iter()
                .zip(widths)
                .enumerate()
                .map(|(column, (cell, width))| match column {
                    1 => format!(" {cell:<width$} |"),
                    _ => format!(" {cell:>width$} |"),
                });
        format!("|{}\n", cells.collect::<String>())
    };
    cells.iter().map(line).collect()
}

/// How many times as long the one took as the other: the median of the rounds' ratios.
fn ratio(one: &Row, other: &Row) -> Option<f64> {
    let rounds = one.generations.iter().zip(&other.generations);
    median(rounds.map(|(one, other)| Some(one.milliseconds()? / other.milliseconds()?)))
}

/// Of what there is.
pub(crate) fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (
        values.get(values.len().checked_sub(1)? / 2)?,
        values.get(values.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

/// A share, as `5 %` or `0.25 %`.
pub(crate) fn percent(share: f64) -> String {
    let hundredths = (share * 1e4).round() / 1e2;
    format!("{hundredths} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_what_was_measured_in_one_round() {
        let row = |loss, mode, rounds: [f64; 2]| Row {
            loss,
            mode,
            generations: rounds
                .map(|seconds| Generation {
                    seconds: vec![0.0, seconds],
                    asked_again: Some(3),
                    ..Generation::default()
                })
                .into(),
        };
        let rows = [
            row(0.0, Mode::Tcp, [0.05, 0.1]),
            row(0.05, Mode::Tcp, [0.5, 1.0]),
            row(0.0, Mode::Relaxed, [0.025, 0.05]),
            row(0.05, Mode::Relaxed, [0.025, 0.1]),
        ];
        let expected = "\
| loss | mode    | ms/token | to lossless | against tcp | longest pause | concealed | asked again |
| ---: | ------- | -------: | ----------: | ----------: | ------------: | --------: | ----------: |
|  0 % | tcp     |     75.0 |       1.00x |       1.00x |         75 ms |       0 % |           3 |
|  0 % | relaxed |     37.5 |       1.00x |       2.00x |         38 ms |       0 % |           3 |
|  5 % | tcp     |    750.0 |      10.00x |       1.00x |        750 ms |       0 % |           3 |
|  5 % | relaxed |     62.5 |       1.50x |      15.00x |         62 ms |       0 % |           3 |
";
        assert_eq!(table(&rows), expected);
    }
}
