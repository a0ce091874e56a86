//! How weights and policies come into memory, and how much of it they take.

use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const TINY_HF: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/tests/data/tiny-hf"
);

/// The lines of JSON that a command prints.
fn halo(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let library = halo_engine::library::find(None).expect("`cargo xtask setup` brings one");
    let output = Command::new(env!("CARGO_BIN_EXE_halo"))
        .args(arguments)
        .arg("--json")
        .env_clear()
        .env("HOME", folder)
        .env(halo_engine::library::VARIABLE, library)
        .current_dir(folder)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The report of a generation of the default model in f32, which is exact whatever order its groups are added in.
fn generate(home: &TempDir, options: &[&str]) -> Value {
    let arguments = ["run", "--model", "f32", "-n", "40", "Once upon a time"];
    let events = halo(home.path(), &[&arguments, options].concat());
    events.last().unwrap().clone()
}

fn home() -> TempDir {
    let home = TempDir::new().unwrap();
    let import = ["model", "import", TINY_HF, "f32", "--weights", "f32"];
    halo(home.path(), &import);
    home
}

#[test]
fn a_model_larger_than_the_memory_writes_the_same_text() {
    let home = home();
    let whole = generate(&home, &[]);
    let streamed = generate(&home, &["--memory", "9MB"]);
    assert_eq!(streamed["tokens"], whole["tokens"]);
    assert_eq!(whole["counts"]["weights_read"], 0);
    // Half of 14 MB of groups at least, for 40 passes.
    assert!(streamed["counts"]["weights_read"].as_u64().unwrap() > 40 * 5_000_000);
}

#[test]
fn policies_are_compiled_by_the_first_process_alone() {
    let home = TempDir::new().unwrap();
    // A file that is written again is another.
    let files = || {
        let folder = home.path().join(".local/share/halo/cache/policies");
        let entries = fs::read_dir(folder).unwrap();
        let inodes = entries.map(|entry| entry.unwrap().ino());
        inodes.collect::<Vec<_>>()
    };
    let inspect = || halo(home.path(), &["policy", "inspect", "scheduler-even"]);
    let (compiled, written) = (inspect(), files());
    assert_eq!(written.len(), 1);
    assert_eq!((inspect(), files()), (compiled, written));
}

#[test]
fn the_next_layers_weights_are_read_while_this_ones_compute() {
    let home = home();
    let trace = home.path().join("trace.json");
    generate(
        &home,
        &["--memory", "9MB", "--trace", trace.to_str().unwrap()],
    );
    let trace: Value = serde_json::from_slice(&fs::read(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |name: &'static str| {
        let events = events.iter().filter(move |event| event["name"] == name);
        events.map(|event| {
            let begin = event["ts"].as_f64().unwrap();
            let layer = event["args"]["layer"].as_u64().unwrap();
            (begin, begin + event["dur"].as_f64().unwrap(), layer)
        })
    };
    let computing: Vec<_> = named("feed-forward")
        .chain(named("streamed feed-forward"))
        .collect();
    let beside = |(begin, end, layer): &(f64, f64, u64)| {
        computing
            .iter()
            .any(|c| c.0 < *end && *begin < c.1 && c.2 != *layer)
    };
    assert!(named("read").any(|read| beside(&read)));
}

#[test]
fn an_early_start_generates_all_that_was_asked_for() {
    let home = home();
    let whole = generate(&home, &["--start", "1"]);
    assert_eq!(whole["concealed"], 0.0);
    // What is missing at first may end the text early.
    let early = generate(&home, &["--start", "0.3", "--ignore-eos"]);
    assert_eq!(early["tokens"].as_array().unwrap().len(), 40);
    assert!((0.0..0.7).contains(&early["concealed"].as_f64().unwrap()));
}

/// A folder with a model of a real size in it.
fn home_of_big() -> TempDir {
    let home = TempDir::new().unwrap();
    let random = ["model", "random", "--shape", "tinyllama-1.1b", "big"];
    halo(home.path(), &random);
    home
}

#[test]
fn a_text_may_end_before_the_model_is_loaded() {
    let home = home_of_big();
    let run = ["run", "--model", "big", "--start", "0.1", "-n", "1"];
    for _ in 0..3 {
        let events = halo(home.path(), &[&run[..], &["--ignore-eos", "Once"]].concat());
        assert_eq!(events.last().unwrap()["event"], "done");
    }
}

/// Of a model of a real size, since the program itself takes some tens of megabytes.
#[test]
fn weights_are_in_memory_once() {
    let home = home_of_big();
    let options = [
        "--threads",
        "1",
        "--context",
        "0",
        "--prompt",
        "32",
        "--tokens",
        "2",
    ];
    let bench = ["bench", "big", "--repeat", "1", "--no-products"];
    let report = halo(home.path(), &[&bench[..], &options].concat()).remove(0);
    let memory = &report["runs"][0]["memory"];
    let bytes = |value: &Value| value.as_u64().unwrap() as f64;
    let weights = bytes(&report["model"]["weight_bytes"]);
    let decoding = bytes(&memory["decoding"]["total"]) - bytes(&memory["kv_cache"]);
    assert!(
        decoding < 1.15 * weights,
        "{memory}, {weights} bytes of weights"
    );
    assert!(bytes(&memory["peak"]) < 1.3 * weights, "{memory}");
}
