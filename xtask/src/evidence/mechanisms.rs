use anyhow::{Context, Result};
use serde_json::Value;

use super::page::Page;
use super::quality::{self, Found, change};
use super::scale::Scale;
use super::section::{Lines, Section};
use super::{loading, speed, unequal};
use crate::lab::percent;

pub(super) const SECTION: Section = Section {
    name: "mechanisms",
    title: "Each mechanism taken away alone",
    about: "Each row is the same measurement with and without one mechanism; most are of the sections above.",
    commands,
    show,
};

/// The loss at which quality is compared.
const LOSS: &str = "0.2";

fn commands(scale: &Scale) -> Vec<String> {
    let documents = scale.documents[0];
    let mut commands = vec![
        speed::commands(scale).swap_remove(0),
        unequal::commands(scale).swap_remove(0),
        loading::commands(scale).swap_remove(0),
        format!(
            "halo eval predictor models/tiny --json --documents {documents} --text models/tests/data/valid-stories.txt --lost 0.25"
        ),
    ];
    for (sync, placement) in [
        ("drop-late", "aware"),
        ("drop-late", "blind"),
        ("relaxed", "aware"),
    ] {
        commands.extend(
            ["perplexity", "cloze"]
                .map(|what| quality::command(scale, what, LOSS, sync, placement)),
        );
    }
    commands
}

fn show(results: &[Lines], page: &mut Page) -> Result<()> {
    let [
        speed,
        unequal,
        loading,
        predictor,
        dropped,
        dropped_cloze,
        blind,
        blind_cloze,
        relaxed,
        relaxed_cloze,
    ] = results
    else {
        anyhow::bail!("there are other measurements");
    };
    let speed = speed::Report::read(speed)?;
    let most = speed.losses().pop().context("no speed was measured")?;
    let unequal = unequal::Report::read(unequal)?;
    let [dropped, blind, relaxed] = [
        (dropped, dropped_cloze),
        (blind, blind_cloze),
        (relaxed, relaxed_cloze),
    ]
    .map(|(perplexity, cloze)| Found::read(perplexity, cloze));
    let (dropped, blind, relaxed) = (dropped?, blind?, relaxed?);
    let ms = |value: Option<f64>| value.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
    let seconds = |share| {
        loading::first_token(loading, share).map_or_else(|| "-".into(), |s| format!("{s:.2} s"))
    };
    let predicted = |order: &str| {
        let orders = predictor.first()?["orders"].as_array()?;
        let order = orders.iter().find(|of| of["order"] == order)?;
        let whole = predictor.first()?["whole"]["value"].as_f64()?;
        let rise = order["lost"][0]["perplexity"]["value"].as_f64()? / whole - 1.0;
        Some(change([rise; 3]))
    };
    let closed = predictor
        .first()
        .and_then(|p: &Value| p["closed"][0]["perplexity"].as_f64());
    let rows = [
        ["mechanism", "measured", "with it", "without"].map(String::from),
        [
            "Datagrams, repaired at the scale of a round trip".into(),
            format!("a token, two hosts, {} lost: against TCP", percent(most)),
            ms(speed.milliseconds("strict", most)),
            ms(speed.milliseconds("tcp", most)),
        ],
        [
            "Waiting only for what matters".into(),
            format!("a token, two hosts, {} lost: against strict", percent(most)),
            ms(speed.milliseconds("relaxed", most)),
            ms(speed.milliseconds("strict", most)),
        ],
        [
            "Asking again for what matters".into(),
            "perplexity of stories, 20 % lost: against drop-late".into(),
            change(relaxed.changes[0]),
            change(dropped.changes[0]),
        ],
        [
            "Placement by importance".into(),
            "perplexity of stories, 20 % lost, nothing asked again: against any groups anywhere"
                .into(),
            change(dropped.changes[0]),
            change(blind.changes[0]),
        ],
        [
            "Prediction for the token at hand".into(),
            format!(
                "perplexity of stories without the quarter of groups said to matter least: against their mean importance; {} of the gap to knowing it is closed",
                percent(closed.unwrap_or(0.0))
            ),
            predicted("predicted").unwrap_or_default(),
            predicted("mean").unwrap_or_default(),
        ],
        [
            "Shares by speed and links".into(),
            "a token, unequal hosts: `scheduler-halo` against equal shares".into(),
            ms(unequal.milliseconds("scheduler-halo")),
            ms(unequal.milliseconds("scheduler-even")),
        ],
        [
            "Loading while generating".into(),
            "first token, cold: with half of the importance loaded, against all".into(),
            seconds("0.5"),
            seconds("1"),
        ],
    ];
    page.table(&rows.map(Vec::from));
    Ok(())
}
