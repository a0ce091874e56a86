use std::path::Path;

use anyhow::{Context, Result};

use super::page::Page;
use super::scale::Scale;
use super::section::{Lines, Section};
use crate::lab::{median, number};

pub(super) const SECTION: Section = Section {
    name: "policies",
    title: "Time in the guests",
    about: "What a call of a policy takes, with all that goes into its sandbox and comes out, in microseconds. Scores are of one layer's groups; \
            they are computed while packets are under way.",
    commands,
    show,
};

fn commands(scale: &Scale) -> Vec<String> {
    let repeat = scale.rounds * 3;
    let tiny = Path::new("models/tiny");
    let model = scale.model.as_deref().unwrap_or(tiny).display();
    vec![format!(
        "halo bench --json --threads 1 --context 0 --prompt 16 --tokens 4 --no-products --repeat {repeat} {model}"
    )]
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let report = results
        .iter()
        .flatten()
        .next()
        .context("nothing was printed")?;
    let mut rows = vec![["model", "call", "us"].map(String::from).to_vec()];
    for (name, call) in [
        ("`predictor-probe` scores a layer", "score"),
        ("`scheduler-halo` admits a round", "admit"),
        ("`scheduler-halo` places all groups", "place"),
    ] {
        let seconds = report["runs"][0]["policies"][call]["seconds"].as_array();
        let mut each: Vec<f64> = seconds
            .into_iter()
            .flatten()
            .filter_map(|s| Some(s.as_f64()? * 1e6))
            .collect();
        each.sort_by(f64::total_cmp);
        let middle = number(median(each.iter().copied().map(Some)), 1);
        let (Some(low), Some(high)) = (each.first(), each.last()) else {
            anyhow::bail!("`halo bench --json` says nothing of policies");
        };
        let model = format!(
            "{}, {} wide",
            report["model"]["name"].as_str().unwrap_or_default(),
            report["model"]["width"]
        );
        rows.push(vec![
            model,
            name.into(),
            format!("{middle} ({low:.1}–{high:.1})"),
        ]);
    }
    page.table(&rows);
    Ok(())
}
