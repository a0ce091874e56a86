//! A report for people: a row for each figure, a column for each number of threads.

use halo_eval::bench::{Report, Run, Timing};

use super::spread;
use crate::output;

/// One figure of a run.
struct Figure {
    name: String,
    value: f64,
    shown: String,
}

/// The conditions, and all figures; with `before`, each with its ratio to that report's.
pub(super) fn show(report: &Report, before: Option<&Report>) -> String {
    let (model, machine) = (&report.model, &report.machine);
    let mut text = format!(
        "{}: {} layers of width {}; weights {}, embedding {}; {}, of which a token reads {}\n{}, {} cores{}; HALO {}",
        model.name,
        model.layers,
        model.width,
        model.quantisation.weights,
        model.quantisation.embedding,
        output::bytes(model.weight_bytes),
        output::bytes(model.token_bytes),
        machine.processor,
        machine.cores,
        machine
            .load
            .map_or_else(String::new, |load| format!(", load {load:.1} before")),
        report.halo,
    );
    if let Some(run) = report.runs.first() {
        text += &format!(", {}", run.onnxruntime);
    }
    text += "\n\n";
    if let Some(cluster) = &report.cluster {
        let before = before.and_then(|before| before.cluster.as_ref());
        return text + &spread::show(cluster, before);
    }

    let columns: Vec<Vec<Figure>> = (report.runs.iter())
        .map(|run| figures(report, run))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for figure in columns.iter().flatten() {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    let title = |run: &Run| match run.threads {
        1 => "1 thread".into(),
        threads => format!("{threads} threads"),
    };
    let mut rows = vec![vec![String::new()]];
    for run in &report.runs {
        rows[0].push(title(run));
        rows[0].extend(before.map(|_| "before".into()));
    }
    for name in names {
        let mut row = vec![name.to_owned()];
        for (run, figures) in report.runs.iter().zip(&columns) {
            let figure = figures.iter().find(|figure| figure.name == name);
            row.push(figure.map_or_else(String::new, |figure| figure.shown.clone()));
            if let Some(before) = before {
                let old = (before.runs.iter())
                    .find(|old| old.threads == run.threads)
                    .and_then(|old| {
                        (self::figures(before, old).into_iter()).find(|f| f.name == name)
                    });
                row.push(match (figure, old) {
                    (Some(new), Some(old)) => format!("×{:.2}", new.value / old.value),
                    _ => String::new(),
                });
            }
        }
        rows.push(row);
    }
    text + &output::table(&rows)
}

fn figures(report: &Report, run: &Run) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name: String, value: f64, shown: String| {
        figures.push(Figure { name, value, shown });
    };
    let token_bytes = report.model.token_bytes as f64;
    for (context, timing) in &run.decode {
        if let Some((value, shown)) = rate(timing) {
            add(format!("decode after {context}, tokens/s"), value, shown);
        }
    }
    for (generations, timing) in &run.parallel {
        if let Some((value, shown)) = rate(timing) {
            add(format!("{generations} at once, tokens/s"), value, shown);
        }
    }
    let (prompt, timing) = &run.prefill;
    if let Some((value, shown)) = rate(timing) {
        add(format!("prompt of {prompt}, tokens/s"), value, shown);
    }
    if let Some(products) = &run.products {
        for (name, timing) in [
            ("decode: products alone, tokens/s", &products.decode),
            ("prompt: products alone, tokens/s", &products.prefill),
        ] {
            if let Some((value, shown)) = rate(timing) {
                add(name.into(), value, shown);
            }
        }
    }
    if let Some(share) = run.outside_products() {
        add(
            "decode: outside the products".into(),
            share,
            output::percent(share),
        );
    }
    let fastest = run.decode.first().and_then(|(_, timing)| rate(timing));
    if let Some((rate, _)) = fastest {
        let bytes = rate * token_bytes;
        add(
            "decode: weights read a second".into(),
            bytes,
            output::bytes(bytes as u64),
        );
    }
    if let Some(policies) = &run.policies {
        for (name, timing) in [
            ("policies: score a layer", &policies.score),
            ("policies: admit a round", &policies.admit),
            ("policies: place all groups", &policies.place),
        ] {
            if let Some(rates) = timing.tokens_per_second() {
                let [median, most, least] = rates.map(|calls| 1e6 / calls);
                add(
                    name.into(),
                    median,
                    format!("{median:.1} us ({least:.1}–{most:.1})"),
                );
            }
        }
    }
    add(
        "loading".into(),
        run.load_seconds,
        output::seconds(run.load_seconds),
    );
    if let Some(memory) = &run.memory {
        let (weights, cache) = (report.model.weight_bytes, memory.kv_cache);
        let size = |bytes: u64| (bytes as f64, output::bytes(bytes));
        for (name, (value, shown)) in [
            ("memory: loaded", size(memory.loaded.total)),
            ("memory: decoding", size(memory.decoding.total)),
            ("  of it mapped files", size(memory.decoding.file)),
            ("  of it KV cache", size(cache)),
            ("memory: peak", size(memory.peak)),
        ] {
            add(name.into(), value, shown);
        }
        let ratio = memory.decoding.total as f64 / (weights + cache) as f64;
        add(
            "memory / (weights + KV cache)".into(),
            ratio,
            format!("{ratio:.2}"),
        );
    }
    figures
}

/// Tokens per second: the median, and all of it for people.
fn rate(timing: &Timing) -> Option<(f64, String)> {
    let [median, lowest, highest] = timing.tokens_per_second()?;
    Some((median, format!("{median:.1} ({lowest:.1}–{highest:.1})")))
}
