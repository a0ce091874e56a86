use anyhow::Result;
use serde::Deserialize;

use super::page::Page;
use super::scale::Scale;
use super::section::{Lines, Section};

pub(super) const SECTION: Section = Section {
    name: "rounds",
    title: "A round without computing",
    about: "Every layer of every token takes a round. With nothing computed in it, its time is what the network costs and HALO on top; beside it, \
            what one packet each way takes without the threads that compute. Milliseconds, on lossless links between two hosts of the lab.",
    commands,
    show,
};

#[derive(Debug, Deserialize)]
struct Pinged {
    node: String,
    rounds: Rounds,
}

#[derive(Debug, Deserialize)]
struct Rounds {
    median_us: f64,
    p95_us: f64,
    p99_us: f64,
    longest_us: f64,
    round_trip_us: Option<f64>,
}

fn commands(scale: &Scale) -> Vec<String> {
    let pings = scale.pings;
    vec![format!(
        "cargo xtask lab rounds --json --rounds {pings}{}",
        scale.model()
    )]
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let mut rows = vec![
        [
            "worker",
            "median",
            "95 %",
            "99 %",
            "longest",
            "zenoh, one packet each way",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for line in results.iter().flatten() {
        for Pinged { node, rounds } in serde_json::from_value::<Vec<Pinged>>(line.clone())? {
            let ms = |us: f64| format!("{:.3}", us / 1e3);
            let zenoh = rounds.round_trip_us.map_or_else(|| "-".into(), ms);
            let each = [
                rounds.median_us,
                rounds.p95_us,
                rounds.p99_us,
                rounds.longest_us,
            ]
            .map(ms);
            rows.push([node].into_iter().chain(each).chain([zenoh]).collect());
        }
    }
    page.table(&rows);
    Ok(())
}
