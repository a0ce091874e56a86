//! What `halo run --trace` writes of a cluster.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{Cluster, LEADER, Setup, evenly};

const TOKENS: usize = 12;

/// A span of the trace.
#[derive(Debug)]
struct Span {
    name: String,
    node: String,
    begin: f64,
    end: f64,
    of: BTreeMap<String, u64>,
}

fn read(trace: &Value) -> Vec<Span> {
    let events = trace["traceEvents"].as_array().expect("events");
    let named = |event: &&Value| event["name"] == "process_name";
    let nodes: BTreeMap<u64, &str> = events
        .iter()
        .filter(named)
        .map(|event| {
            let name = event["args"]["name"].as_str().expect("a name");
            (event["pid"].as_u64().expect("a number"), name)
        })
        .collect();
    let spans = events.iter().filter(|event| event["ph"] == "X");
    spans
        .map(|event| {
            let begin = event["ts"].as_f64().expect("a time");
            Span {
                name: event["name"].as_str().expect("a name").to_owned(),
                node: nodes[&event["pid"].as_u64().expect("a number")].to_owned(),
                begin,
                end: begin + event["dur"].as_f64().expect("a time"),
                of: serde_json::from_value(event["args"].clone()).expect("numbers"),
            }
        })
        .collect()
}

#[test]
fn every_node_is_in_the_trace_by_the_leaders_clock() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("trace.json");
    let cluster = Cluster::start(Setup::default(), 2);
    let mut options = evenly("strict", "f32").to_vec();
    options.extend(["--trace", path.to_str().unwrap()]);
    let generation = cluster.lead(TOKENS, &options).finish();
    assert_eq!(generation.tokens.len(), TOKENS);

    let spans = read(&serde_json::from_slice(&fs::read(&path).unwrap()).unwrap());
    let of = |name: &str, leads: bool| -> Vec<&Span> {
        let spans = spans.iter().filter(|s| s.name == name);
        spans.filter(|s| (s.node == LEADER) == leads).collect()
    };
    let rounds = of("round", true);
    assert!(rounds.len() as u64 >= TOKENS as u64 * 2, "{}", rounds.len());
    assert_eq!(of("round", false).len(), 2 * rounds.len());

    // A worker's part of a round is within the leader's, to the microseconds of the format: all nodes have this machine's clock,
    // which each counts from a beginning of its own.
    for part in of("round", false) {
        let whole = rounds.iter().find(|r| r.of == part.of).expect("its round");
        let late = (part.end - whole.end).max(whole.begin - part.begin);
        assert!(late < 1.0, "{part:?} is not within {whole:?}");
    }

    // The next layer is predicted while the packets are under way: after they were sent, before anything is waited for.
    let within = |name: &str, round: &Span| -> f64 {
        let inside = |s: &&&Span| round.begin <= s.begin && s.end <= round.end;
        let spans = of(name, true);
        spans.iter().find(inside).map_or(f64::NAN, |s| s.begin)
    };
    let last = rounds.iter().map(|r| r.of["layer"]).max();
    let rounds = rounds.iter().filter(|r| Some(r.of["layer"]) < last);
    for round in rounds {
        let [send, compute, predict, wait] =
            ["send", "feed-forward", "predict", "wait"].map(|name| within(name, round));
        assert!(
            send < compute && compute < predict && predict < wait,
            "{round:?}: {send}, {compute}, {predict}, {wait}"
        );
    }
}
