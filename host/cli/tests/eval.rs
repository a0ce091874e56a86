//! `halo eval predictor`: what it prints, for people and for programs.

use std::process::Command;

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn predictor(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halo"));
    command.current_dir(ROOT).env_remove("HALO_CONFIG");
    command.args(["eval", "predictor", "models/tiny", "--documents", "1"]);
    command.args(["--text", "models/tests/data/valid-stories.txt"]);
    command.args(["--lost", "0.25"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_probe_is_measured_beside_the_mean_and_the_oracle() {
    let report: Value = serde_json::from_str(&predictor(&["--json"])).unwrap();
    assert_eq!(report["text"], "valid-stories");
    assert_eq!(report["predictor"], "predictor-probe");
    assert_eq!(report["closed"][0]["groups"], 6);
    let closed = report["closed"][0]["kept"].as_f64().unwrap();
    assert!(closed > 0.5 && closed < 1.0, "{closed}");

    let table = predictor(&[]);
    let row = |name: &str| -> Vec<&str> {
        let (_, row) = table.rsplit_once(name).unwrap();
        row.lines()
            .next()
            .unwrap()
            .split("  ")
            .filter(|cell| !cell.is_empty())
            .collect()
    };
    let percent = |share: &Value| format!("{:.1} %", 100.0 * share.as_f64().unwrap());
    let overall = |order: usize| percent(&report["orders"][order]["lost"][0]["kept"]["overall"]);
    let shown: Vec<_> = row("all layers")
        .iter()
        .map(|cell| cell.trim().to_owned())
        .collect();
    assert_eq!(shown[..4], [0, 1, 2, 3].map(overall));
    assert_eq!(shown[4], percent(&report["closed"][0]["kept"]));
    assert_eq!(row("perplexity").len(), 5, "{table}");
}

#[test]
fn a_predictor_that_only_knows_the_mean_closes_no_gap() {
    let arguments = ["--predictor", "predictor-static", "--json"];
    let report: Value = serde_json::from_str(&predictor(&arguments)).unwrap();
    assert_eq!(report["predictor"], "predictor-static");
    assert_eq!(report["closed"][0]["kept"], 0.0);
    assert_eq!(report["closed"][0]["perplexity"], 0.0);
}

fn eval(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halo"));
    command.current_dir(ROOT).env_remove("HALO_CONFIG");
    command.arg("eval").args(arguments);
    command.args(["--model", "models/tiny"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_loss_costs_is_told_with_its_interval() {
    let text = [
        "perplexity",
        "--documents",
        "1",
        "--text",
        "models/tests/data/valid-stories.txt",
    ];
    let plain: Value = serde_json::from_str(&eval(&[&text[..], &["--json"]].concat())).unwrap();
    assert!(plain.get("change").is_none());
    let loss = [
        "--loss",
        "0.2:3",
        "--sync",
        "drop-late",
        "--seeds",
        "3",
        "--placement",
        "worst",
    ];
    let arguments = [&text[..], &loss].concat();
    let lossy: Value =
        serde_json::from_str(&eval(&[&arguments[..], &["--json"]].concat())).unwrap();
    assert_eq!(lossy["perplexity"], plain["perplexity"]);
    assert_eq!(lossy["runs"].as_array().unwrap().len(), 3);
    let change = |bound: &str| lossy["change"][bound].as_f64().unwrap();
    assert!(
        change("low") < change("mean") && change("mean") < change("high"),
        "{lossy}"
    );
    assert_eq!(lossy["conditions"]["sync"], "drop-late");
    let words = eval(&arguments);
    assert!(
        words.starts_with("3 workers, 20.0 % lost in bursts of 3, placement worst, drop-late: "),
        "{words}"
    );
    assert!(
        words.contains(&format!("{:+.2} %", 100.0 * change("mean"))),
        "{words}"
    );
}

#[test]
fn the_default_model_fills_gaps() {
    let cloze = ["cloze", "--stories", "10"];
    let plain: Value = serde_json::from_str(&eval(&[&cloze[..], &["--json"]].concat())).unwrap();
    assert!(
        plain["accuracy"]["mean"].as_f64().unwrap() >= 0.9,
        "{plain}"
    );
    let words = eval(&[&cloze[..], &["--loss", "0.05"]].concat());
    assert!(words.contains(" of 10 stories"), "{words}");
}
