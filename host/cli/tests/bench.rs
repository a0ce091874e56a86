//! `halo bench`: what it prints, for people and for programs.

use std::fs;
use std::process::{Command, Output};

use halo_eval::bench::Report;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halo"));
    command.args(["bench", TINY, "--threads", "1", "--context", "0,40"]);
    command.args(["--prompt", "8", "--tokens", "2", "--repeat", "1"]);
    command.args(arguments).env_remove("HALO_CONFIG");
    command.output().unwrap()
}

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_report_can_be_compared_with() {
    let json = printed(bench(&["--json"]));
    let report: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(report.model.name, "tiny");
    let [run] = &report.runs[..] else {
        panic!("{} runs", report.runs.len())
    };
    assert_eq!(run.threads, 1);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("before.json");
    fs::write(&file, json).unwrap();
    let table = printed(bench(&["--compare", file.to_str().unwrap()]));
    let mut lines = table.lines().skip_while(|line| !line.is_empty()).skip(1);
    assert!(lines.next().unwrap().ends_with("1 thread  before"));
    for line in lines {
        let (_, ratio) = line.rsplit_once('×').expect(line);
        assert!(ratio.parse::<f64>().is_ok(), "{line}");
    }
    assert!(table.contains("decode after 40, tokens/s"), "{table}");
    assert!(table.contains("outside the products"), "{table}");
}

#[test]
fn products_may_be_left_out() {
    let table = printed(bench(&["--no-products"]));
    assert!(table.contains("decode after 0, tokens/s"), "{table}");
    assert!(!table.contains("products"), "{table}");
}
