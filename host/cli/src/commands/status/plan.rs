//! What leaders have planned.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use halo_fabric::{CallError, NodeId};
use halo_runtime::{Planned, PlannedDevice};

use crate::output::{self, Output};

/// What the columns of a plan are.
pub(crate) const HEAD: [&str; 11] = [
    "node",
    "groups",
    "heads",
    "share",
    "importance",
    "groups/s",
    "way",
    "spread",
    "lost",
    "memory",
    "part",
];

/// Prints the plans of those that have one.
pub(super) fn print(
    plans: &BTreeMap<NodeId, Result<Option<Planned>, CallError>>,
    output: &Output,
) -> Result<ExitCode> {
    let leading = plans
        .iter()
        .filter_map(|(node, plan)| Some((node, plan.as_ref().ok()?.as_ref()?)));
    if output.json() {
        let lines: Vec<_> = leading
            .map(|(node, plan)| serde_json::json!({ "leader": node, "plan": plan }))
            .collect();
        output.line(&lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    let texts: Vec<String> = leading.map(|(node, plan)| text(node, plan)).collect();
    if texts.is_empty() {
        output.note("nobody leads now: a plan is made when `halo run --cluster` or `halo chat --cluster` begins");
    }
    anstream::print!("{}", texts.join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn text(leader: &NodeId, plan: &Planned) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{leader} leads: {}", summary(plan));
    let mut rows = vec![HEAD.map(String::from).to_vec()];
    rows.extend(plan.devices.iter().map(row));
    let table = output::table(&rows);
    // Words are to the left, unlike numbers.
    let whys = std::iter::once("why").chain(plan.devices.iter().map(|device| device.why.as_str()));
    for (line, why) in table.lines().zip(whys) {
        let _ = writeln!(text, "{line}  {why}");
    }
    text
}

/// A plan in a line.
pub(crate) fn summary(plan: &Planned) -> String {
    format!(
        "plan {} by {}, {} a token, {} a round",
        plan.epoch,
        plan.scheduler,
        milliseconds(f64::from(plan.token_us)),
        milliseconds(plan.round_us),
    )
}

/// A device's row.
pub(crate) fn row(device: &PlannedDevice) -> Vec<String> {
    let way = |micros: u32| match micros {
        0 => "-".into(),
        micros => milliseconds(f64::from(micros)),
    };
    vec![
        device.node.to_string(),
        device.groups.to_string(),
        device.heads.to_string(),
        output::percent(device.share),
        output::percent(device.importance),
        format!("{:.0}", device.speed),
        way(device.delay_us),
        way(device.spread_us),
        output::percent(f64::from(device.loss)),
        format!(
            "{} of {}",
            output::bytes(device.memory_used),
            output::bytes(device.memory)
        ),
        milliseconds(device.part_us),
    ]
}

fn milliseconds(micros: f64) -> String {
    format!("{:.2} ms", micros / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_table_with_reasons() {
        let device = |node: &str, groups: u64, delay_us, why: &str| PlannedDevice {
            node: node.parse().unwrap(),
            groups,
            heads: if delay_us > 0 { 0 } else { 8 },
            share: groups as f64 / 484.0,
            importance: groups as f64 / 500.0,
            speed: 28_700.0,
            part_us: if groups > 0 { 520.0 } else { 0.0 },
            delay_us,
            spread_us: delay_us / 8,
            loss: if delay_us > 0 { 0.012 } else { 0.0 },
            memory_used: groups * 817_200,
            memory: 1_000_000_000,
            why: why.into(),
        };
        let plan = Planned {
            epoch: 3,
            scheduler: "scheduler-halo".into(),
            token_us: 24_600,
            round_us: 720.0,
            devices: vec![
                device(
                    "shelf-1",
                    330,
                    0,
                    "leads: attention and the output head besides",
                ),
                device(
                    "shelf-2",
                    154,
                    480,
                    "done after 0.52 ms, 0.48 ms of it on the way",
                ),
                device(
                    "attic",
                    0,
                    12_000,
                    "left out: its way of 12.00 ms is longer than a round without it, 0.72 ms",
                ),
            ],
        };
        insta::assert_snapshot!(text(&"shelf-1".parse().unwrap(), &plan));
    }
}
