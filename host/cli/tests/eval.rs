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
