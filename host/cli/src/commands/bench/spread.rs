//! What a cluster does, for people: a row for each step, and how long a round takes with each worker.

use halo_eval::bench::{Cluster, Part, Step, Timing};

use crate::commands::ping;
use crate::output;

/// The table; with `before`, times and rates with their ratios to those.
pub(super) fn show(cluster: &Cluster, before: Option<&Cluster>) -> String {
    let mut text = format!(
        "{}, {}, {}: a prompt of {} tokens, then {} more; the leader has {}\n\n",
        cluster.name,
        cluster.scheduler,
        cluster.mode,
        cluster.prompt,
        cluster.tokens,
        match cluster.threads {
            1 => "1 thread".into(),
            threads => format!("{threads} threads"),
        }
    );
    let mut head = vec![String::new(), "ms a token".into()];
    head.extend(before.map(|_| "before".into()));
    head.extend(["speed".into(), "prompt, tokens/s".into()]);
    head.extend(before.map(|_| "before".into()));
    head.extend(["concealed", "made up", "asked again"].map(String::from));
    let mut rows = vec![head];
    rows.extend(cluster.steps.iter().map(|step| row(cluster, step, before)));
    let table = output::table(&rows);
    // Words are to the left, unlike numbers.
    let shares =
        std::iter::once("neuron groups".to_owned()).chain(cluster.steps.iter().map(groups));
    for (line, shares) in table.lines().zip(shares) {
        text += format!("{line}  {shares}").trim_end();
        text.push('\n');
    }
    let idle = (cluster.steps.last()).map_or(&[][..], |step| step.parts.get(1..).unwrap_or(&[]));
    for part in idle.iter().filter(|part| part.share == 0.0) {
        text += &format!("{}: {}\n", part.node, part.why);
    }
    text += "\nRounds in which nothing is computed, in ms:\n";
    text + &ping::table(&cluster.rounds)
}

fn row(cluster: &Cluster, step: &Step, before: Option<&Cluster>) -> Vec<String> {
    let name = match step.workers.last() {
        None => "leader alone".into(),
        Some(worker) => format!("+ {worker}"),
    };
    let Some([rate, low, high]) = step.decode.tokens_per_second() else {
        return vec![name, "-".into()];
    };
    let old = before.map(|before| {
        let mut steps = before.steps.iter();
        steps.find(|old| old.workers == step.workers)
    });
    let ratio = |new: f64, timing: fn(&Step) -> &Timing, sign: i32| {
        old.map(|old| {
            let rate = old.and_then(|old| timing(old).tokens_per_second());
            // Times are the inverse of rates.
            rate.map_or_else(String::new, |[old, ..]| {
                format!("×{:.2}", (new / old).powi(sign))
            })
        })
    };
    let ms = |rate: f64| 1e3 / rate;
    let mut row = vec![
        name,
        format!("{:.2} ({:.2}–{:.2})", ms(rate), ms(high), ms(low)),
    ];
    row.extend(ratio(rate, |step| &step.decode, -1));
    row.push(
        cluster
            .speed(step)
            .map_or_else(String::new, |s| format!("×{s:.2}")),
    );
    let prompt = step.prefill.tokens_per_second().unwrap_or_default();
    let [rate, low, high] = prompt;
    row.push(format!("{rate:.1} ({low:.1}–{high:.1})"));
    row.extend(ratio(rate, |step| &step.prefill, 1));
    if !step.workers.is_empty() {
        let concealed = step.concealed.iter().sum::<f64>() / step.concealed.len().max(1) as f64;
        row.push(output::percent(concealed));
        row.push(step.traffic.made_up.to_string());
        row.push(step.traffic.asked_again.to_string());
    }
    row
}

/// Who has which share of the groups, and how many KV heads where those are shared.
fn groups(step: &Step) -> String {
    if step.decode.seconds.is_empty() {
        return "these nodes have no memory for the model".into();
    }
    if step.workers.is_empty() {
        return String::new();
    }
    if step.leaves_all_with_the_leader() {
        return "all with the leader".into();
    }
    let shared = step.parts.iter().skip(1).any(|part| part.heads > 0);
    let part = |part: &Part| {
        let heads = match part.heads {
            _ if !shared => String::new(),
            0 => String::new(),
            1 => ", 1 head".into(),
            heads => format!(", {heads} heads"),
        };
        format!("{} {}{heads}", part.node, output::percent(part.share))
    };
    step.parts.iter().map(part).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_eval::bench::Traffic;
    use halo_runtime::Pinged;

    fn timing(milliseconds: &[f64]) -> Timing {
        Timing {
            seconds: milliseconds.iter().map(|ms| ms / 1e3).collect(),
        }
    }

    fn part(node: &str, share: f64, heads: usize, why: &str) -> Part {
        Part {
            node: node.into(),
            share,
            heads,
            loss: 0.0,
            why: why.into(),
        }
    }

    fn cluster(times: [&[f64]; 4]) -> Cluster {
        let workers = ["attic", "shelf-1", "shelf-2"];
        let why = "left out: its way of 12.00 ms is longer than a round without it, 0.72 ms";
        let leader = |share| part("laptop", share, 6, "leads");
        let attic = part("attic", 0.0, 0, why);
        let parts = [
            vec![],
            vec![leader(1.0), attic.clone()],
            vec![leader(0.6), attic.clone(), part("shelf-1", 0.4, 1, "done")],
            vec![
                leader(0.4),
                attic,
                part("shelf-1", 0.3, 1, "done"),
                part("shelf-2", 0.3, 2, "done"),
            ],
        ];
        let step = |(count, (times, parts)): (usize, (&[f64], Vec<Part>))| Step {
            workers: workers[..count].iter().map(ToString::to_string).collect(),
            decode: timing(times),
            prefill: timing(&times.iter().map(|ms| ms / 5.0).collect::<Vec<_>>()),
            parts,
            concealed: vec![0.01 * count as f64; 2],
            traffic: Traffic {
                made_up: 12 * count as u64,
                asked_again: count as u64,
                ..Traffic::default()
            },
        };
        let pinged = |worker: &&str| {
            let rounds = Pinged {
                rounds: 1000,
                lost: 0,
                mean_us: 310.0,
                median_us: 300.0,
                p95_us: 400.0,
                p99_us: 500.0,
                longest_us: 2500.0,
                asked_again: 3,
                made_up: 0,
                round_trip_us: Some(200.0),
                loss_to: Some(0.01),
                loss_from: None,
            };
            ((*worker).to_owned(), rounds)
        };
        Cluster {
            name: "home".into(),
            threads: 4,
            scheduler: "scheduler-halo".into(),
            mode: "relaxed".into(),
            prompt: 512,
            tokens: 32,
            rounds: workers.iter().map(pinged).collect(),
            steps: (times.into_iter().zip(parts).enumerate())
                .map(step)
                .collect(),
        }
    }

    #[test]
    fn steps_are_rows() {
        let now = cluster([
            &[30.0, 31.0, 29.0],
            &[30.0, 30.0, 30.0],
            &[20.0, 20.0, 21.0],
            &[15.0, 10.0, 14.5],
        ]);
        let before = cluster([&[], &[30.0], &[25.0], &[29.0]]);
        insta::assert_snapshot!("beside_before", show(&now, Some(&before)));
        insta::assert_snapshot!("no_memory", show(&before, None));
    }
}
