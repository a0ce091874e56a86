use anyhow::{Context, Result};
use serde_json::Value;

use super::page::Page;
use super::plot::Plot;
use super::scale::Scale;
use super::section::{Lines, Section};
use crate::lab::percent;

pub(super) const SECTION: Section = Section {
    name: "quality",
    title: "Quality against loss, imitated",
    about: "What lost packets change about the default model, on a leader and three workers that are imitated by the round's protocol \
            (see [benchmarks](guides/benchmarks.md#loss)): the perplexity of held-out stories and books, and how often a word that is right \
            or wrong is known. `relaxed` waits for what matters; `drop-late` asks for nothing again. Placement is aware of how much groups \
            matter, blind, or the worst there is, and every node has as many groups. In brackets is where the mean over all seeds lies with \
            95 % confidence.",
    commands,
    show,
};

/// Whom rounds wait for, and which groups nodes have.
const CONDITIONS: [(&str, &str); 5] = [
    ("relaxed", "aware"),
    ("relaxed", "blind"),
    ("drop-late", "aware"),
    ("drop-late", "blind"),
    ("drop-late", "worst"),
];

/// Besides: everything waited for, loss in bursts, and loss at one node.
const MORE: [(&str, &str, &str); 5] = [
    ("0.2", "strict", "aware"),
    ("0.05:6", "relaxed", "aware"),
    ("0.05:6", "drop-late", "aware"),
    ("0.2 --one-bad-node", "drop-late", "aware"),
    ("0.2 --one-bad-node", "drop-late", "worst"),
];

/// Loss, synchronisation and placement of each condition.
fn conditions(scale: &Scale) -> Vec<(&'static str, &'static str, &'static str)> {
    let each = |&loss: &&'static str| CONDITIONS.map(|(sync, placement)| (loss, sync, placement));
    scale
        .quality_loss
        .iter()
        .flat_map(each)
        .chain(MORE)
        .collect()
}

fn commands(scale: &Scale) -> Vec<String> {
    let both = |(loss, sync, placement)| {
        ["perplexity", "cloze"].map(|what| command(scale, what, loss, sync, placement))
    };
    conditions(scale).into_iter().flat_map(both).collect()
}

pub(super) fn command(
    scale: &Scale,
    what: &str,
    loss: &str,
    sync: &str,
    placement: &str,
) -> String {
    let Scale {
        documents: [documents, _],
        stories: [stories, _],
        seeds,
        ..
    } = scale;
    let text = match what {
        "perplexity" => format!(
            "--documents {documents} --text models/tests/data/valid-stories.txt --text models/tests/data/valid-books.txt:12"
        ),
        _ => format!("--stories {stories}"),
    };
    format!(
        "halo eval {what} --json --model models/tiny {text} --loss {loss} --sync {sync} --placement {placement} --seeds {seeds}"
    )
}

/// What one condition costs.
#[derive(Debug)]
pub(super) struct Found {
    sync: String,
    placement: String,
    loss: String,
    share: f64,
    random: bool,
    /// Changes of the perplexity of stories and of books: mean, low, high.
    pub(super) changes: [[f64; 3]; 2],
    /// Words known: mean, low, high.
    pub(super) cloze: [f64; 3],
    concealed: f64,
}

impl Found {
    pub(super) fn read(perplexity: &[Value], cloze: &[Value]) -> Result<Self> {
        let read = || {
            let cloze = cloze.first()?;
            let conditions = &cloze["conditions"];
            let loss = &conditions["loss"];
            let share = loss["rate"].as_f64()?;
            let burst = loss["burst"].as_f64();
            let tallies = perplexity.first()?["conditions"]["tallies"].as_array()?;
            let concealed = tallies
                .iter()
                .filter_map(|tally| tally["concealed"].as_f64())
                .sum::<f64>();
            let one = conditions["one_bad_node"].as_bool()?;
            let mut shown = percent(share);
            if let Some(burst) = burst {
                shown += &format!(" in bursts of {burst}");
            }
            if one {
                shown += " at one node";
            }
            Some(Self {
                sync: conditions["sync"].as_str()?.to_owned(),
                placement: conditions["placement"].as_str()?.to_owned(),
                loss: shown,
                share,
                random: burst.is_none() && !one,
                changes: [
                    interval(&perplexity.first()?["change"])?,
                    interval(&perplexity.get(1)?["change"])?,
                ],
                cloze: interval(&cloze["under_loss"])?,
                concealed: concealed / tallies.len().max(1) as f64,
            })
        };
        read().context("`halo eval --json` printed something else")
    }

    fn condition(&self) -> String {
        format!("{}, {}", self.sync, self.placement)
    }
}

/// Mean, low and high.
pub(super) fn interval(value: &Value) -> Option<[f64; 3]> {
    Some([
        value["mean"].as_f64()?,
        value["low"].as_f64()?,
        value["high"].as_f64()?,
    ])
}

/// `+1.2 % (+1.0 to +1.4)`.
pub(super) fn change([mean, low, high]: [f64; 3]) -> String {
    let [mean, low, high] = [mean, low, high].map(|change| format!("{:+.2}", 100.0 * change));
    if low == high {
        format!("{mean} %")
    } else {
        format!("{mean} % ({low} to {high})")
    }
}

/// `98.5 % (97.0 to 100.0)`.
pub(super) fn share([mean, low, high]: [f64; 3]) -> String {
    let [mean, low, high] = [mean, low, high].map(|share| format!("{:.1}", 100.0 * share));
    format!("{mean} % ({low} to {high})")
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let found = results.chunks(2).map(|pair| match pair {
        [perplexity, cloze] => Found::read(perplexity, cloze),
        _ => anyhow::bail!("perplexity and cloze come in pairs"),
    });
    let found: Vec<Found> = found.collect::<Result<_>>()?;
    let plot = |title: &str, y, value: &dyn Fn(&Found) -> f64| {
        let line = |(sync, placement): (&str, &str)| {
            let random = found
                .iter()
                .filter(|f| f.random && f.sync == sync && f.placement == placement);
            (
                format!("{sync}, {placement}"),
                random.map(|f| (f.share, value(f))).collect(),
            )
        };
        let lines = CONDITIONS.map(line).into();
        Plot {
            title: title.into(),
            y,
            logarithmic: false,
            lines,
        }
        .svg()
    };
    let perplexity = plot("Perplexity of held-out stories", "rise, %", &|f| {
        100.0 * f.changes[0][0]
    })?;
    page.plot(
        "quality-perplexity",
        "rise of the perplexity of stories against loss",
        perplexity,
    );
    let cloze = plot("Words known in stories", "%", &|f| 100.0 * f.cloze[0])?;
    page.plot("quality-cloze", "share of words known against loss", cloze);
    let mut rows = vec![
        [
            "lost each way",
            "synchronisation, placement",
            "perplexity of stories",
            "of books",
            "words known",
            "concealed",
        ]
        .map(String::from)
        .to_vec(),
    ];
    rows.extend(found.iter().map(|f| {
        vec![
            f.loss.clone(),
            f.condition(),
            change(f.changes[0]),
            change(f.changes[1]),
            share(f.cloze),
            percent(f.concealed),
        ]
    }));
    page.table(&rows);
    Ok(())
}
