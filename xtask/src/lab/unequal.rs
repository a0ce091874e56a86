//! `cargo xtask lab unequal`: what a scheduler makes of hosts of which one is faster than the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::cluster::{Cluster, Subject, Transport};
use super::condition::Condition;
use super::loss::{self, Loss};
use super::measure::{self, Generation, Length};
use super::network::{Lab, Name, Temporary};
use super::slower::Slower;
use super::speedup::table::{median, number, percent};
use crate::{cargo, peers, say};

/// Measure schedulers on hosts that are as fast as unequal shares of a core.
///
/// In a lab of its own, where each host computes that much more slowly (`--slowdown`). Where this machine has too few cores, all
/// shares become smaller by the same factor until they fit, so that each host has at any time what it was promised. Let the machine
/// do nothing else meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What of a core's speed each host has; the first leads.
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', value_parser = loss::share_or_all, default_value = "1,0.5,0.5,0.25")]
    shares: Vec<f64>,
    /// Share of packets that the last host loses, of those that arrive.
    #[arg(long, value_name = "SHARE", value_parser = loss::share, default_value = "0")]
    loss: f64,
    /// Schedulers to measure; the others are compared with the first.
    #[arg(
        long,
        value_name = "POLICY,...",
        value_delimiter = ',',
        default_value = "scheduler-even,scheduler-halo"
    )]
    schedulers: Vec<String>,
    #[command(flatten)]
    length: Length,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    subject: Subject,
}

/// All that was measured, and under which conditions.
#[derive(Debug, Serialize)]
struct Report {
    halo: &'static str,
    machine: String,
    cores: usize,
    model: String,
    /// Of a core here, by host.
    shares: Vec<f64>,
    loss: f64,
    tokens: u32,
    /// The first host by itself.
    alone: Generation,
    /// The median round with each worker in which nothing is computed, in microseconds.
    pings_us: BTreeMap<String, f64>,
    /// By scheduler; one for each round.
    generations: Vec<(String, Vec<Generation>)>,
}

pub(super) fn run(args: &Args, name: &Name) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let slower = Slower::fit(&args.shares)?;
    let (halo, model) = args.subject.provide()?;
    let temporary = Temporary(name.of("unequal"));
    let lab = Lab::up(&temporary.0, u8::try_from(args.shares.len())?)?;
    slower.place(&lab)?;

    say::step("Measuring", "one host alone");
    let mut alone = lab.host(1)?.command(&halo);
    alone.arg("run").arg("--model").arg(&model);
    alone.args(slower.options(1));
    let alone = measure::generation(alone, args.length, || Ok(()))?;
    let cluster = Cluster::start_with(&lab, &halo, &model, Transport::Udp, |host| {
        slower.options(host)
    })?;
    let pings_us = ping(&cluster)?;
    let last = lab.host(u8::try_from(args.shares.len())?)?;
    let mut generations: Vec<(String, Vec<Generation>)> = args
        .schedulers
        .iter()
        .map(|name| (name.clone(), Vec::new()))
        .collect();
    for round in 1..=args.rounds {
        for (name, generations) in &mut generations {
            say::step(
                "Measuring",
                format_args!("{name}, round {round} of {}", args.rounds),
            );
            // Before the plan is made, which is to know it.
            Loss::random(args.loss).set(last)?;
            let mut leader = cluster.leader()?;
            leader.args(["--scheduler", name]).args(slower.options(1));
            generations.push(measure::generation(leader, args.length, || Ok(()))?);
            Loss::None.set(last)?;
        }
    }
    let report = Report {
        halo: env!("CARGO_PKG_VERSION"),
        machine: peers::processor(),
        cores,
        model: model
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        shares: slower.shares().to_vec(),
        loss: args.loss,
        tokens: args.length.tokens,
        alone,
        pings_us,
        generations,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", show(&report));
    }
    Ok(())
}

/// What a round costs in which nothing is computed, by worker.
fn ping(cluster: &Cluster<'_>) -> Result<BTreeMap<String, f64>> {
    #[derive(Deserialize)]
    struct Pinged {
        node: String,
        rounds: Rounds,
    }
    #[derive(Deserialize)]
    struct Rounds {
        median_us: f64,
    }
    let output = cargo::output(cluster.lead("ping")?.args(["--json", "--rounds", "300"]))?;
    let pinged: Vec<Pinged> =
        serde_json::from_str(&output).with_context(|| format!("`halo ping` printed `{output}`"))?;
    ensure!(!pinged.is_empty(), "`halo ping` found no worker");
    let pinged = pinged.into_iter();
    Ok(pinged.map(|p| (p.node, p.rounds.median_us)).collect())
}

/// A table in Markdown, readable as it is, above it the conditions.
fn show(report: &Report) -> String {
    let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(", ");
    let alone = report.alone.milliseconds();
    let sum = report.shares.iter().sum::<f64>() / report.shares[0];
    let bound = alone.map(|alone| alone / sum);
    let mut text = format!(
        "HALO {}, {}, hosts as fast as {} of a core, on {} with {} cores. {} tokens after a short prompt; the last host loses {}.\n\
         One host alone: {} ms/token; divided by the {sum:.2} times as much time that all have: {}. A round without computing: {}.\n\n",
        report.halo,
        report.model,
        list(&mut report.shares.iter().map(|share| percent(*share))),
        report.machine,
        report.cores,
        report.tokens,
        percent(report.loss),
        number(alone, 1),
        number(bound, 1),
        list(
            &mut report
                .pings_us
                .iter()
                .map(|(node, us)| format!("{node} {:.2} ms", us / 1e3))
        ),
    );
    text += "| scheduler | groups, the leader's first | ms/token | speed to the first | time to the bound | longest pause | concealed |\n";
    text += "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n";
    let first = &report.generations[0].1;
    for (name, generations) in &report.generations {
        let milliseconds = median(generations.iter().map(Generation::milliseconds));
        let ratios = first.iter().zip(generations);
        let ratio =
            median(ratios.map(|(one, other)| Some(one.milliseconds()? / other.milliseconds()?)));
        let pause = median(generations.iter().map(Generation::longest_pause));
        let concealed = median(generations.iter().map(|g| Some(g.concealed)));
        let shares = generations
            .first()
            .map(|g| g.shares.clone())
            .unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| `{name}` | {} | {} | {}x | {}x | {} ms | {} |",
            list(
                &mut shares
                    .iter()
                    .map(|(_, share)| format!("{:.0} %", share * 100.0))
            ),
            number(milliseconds, 1),
            number(ratio, 2),
            number(milliseconds.zip(bound).map(|(time, bound)| time / bound), 2),
            number(pause, 0),
            percent(concealed.unwrap_or(0.0)),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_compared_with_the_first() {
        let generation = |milliseconds: f64, leader: f64| Generation {
            shares: vec![("a".into(), leader), ("b".into(), 1.0 - leader)],
            seconds: vec![0.0, milliseconds * 1e-3],
            ..Generation::default()
        };
        let report = Report {
            halo: "0",
            machine: "a machine".into(),
            cores: 2,
            model: "m".into(),
            shares: vec![1.0, 0.5],
            loss: 0.0,
            tokens: 2,
            alone: generation(30.0, 1.0),
            pings_us: [("b".to_owned(), 250.0)].into(),
            generations: vec![
                ("even".into(), vec![generation(40.0, 0.5)]),
                ("halo".into(), vec![generation(25.0, 0.7)]),
            ],
        };
        let text = show(&report);
        assert!(text.contains("One host alone: 30.0 ms/token; divided by the 1.50 times as much time that all have: 20.0."), "{text}");
        assert!(
            text.contains("| `even` | 50 %, 50 % | 40.0 | 1.00x | 2.00x | 40 ms | 0 % |"),
            "{text}"
        );
        assert!(
            text.contains("| `halo` | 70 %, 30 % | 25.0 | 1.60x | 1.25x | 25 ms | 0 % |"),
            "{text}"
        );
    }
}
