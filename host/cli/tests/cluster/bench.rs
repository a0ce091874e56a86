//! What `halo bench --cluster` measures.

use std::fs;

use halo_eval::bench::{Report, Step};

use crate::cluster::{Cluster, Setup};

const EVEN: [&str; 2] = ["--scheduler", "scheduler-even"];

fn measured(printed: &str) -> halo_eval::bench::Cluster {
    let report: Report = serde_json::from_str(printed).expect("a report");
    assert!(report.runs.is_empty());
    report.cluster.expect("measurements on the cluster")
}

fn share(step: &Step) -> f64 {
    step.parts.iter().map(|part| part.share).sum()
}

#[test]
fn workers_join_one_after_the_other() {
    let cluster = Cluster::start(Setup::default(), 2);
    let printed = cluster.bench(3, &[&EVEN[..], &["--json"]].concat());
    let found = measured(&printed);
    assert_eq!((found.name.as_str(), found.threads), (cluster.name(), 1));
    assert_eq!((found.prompt, found.tokens), (12, 3));
    assert_eq!(found.scheduler, "scheduler-even");
    let pinged: Vec<_> = found.rounds.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(pinged, ["worker-1", "worker-2"]);
    assert!(found.rounds.iter().all(|(_, rounds)| rounds.lost == 0));

    let workers: Vec<_> = found.steps.iter().map(|step| &step.workers[..]).collect();
    assert_eq!(workers, [&pinged[..0], &pinged[..1], &pinged[..2]]);
    for step in &found.steps {
        for timing in [&step.decode, &step.prefill] {
            assert_eq!(timing.seconds.len(), 2, "{step:?}");
            assert!(timing.seconds.iter().all(|seconds| *seconds > 0.0));
        }
        assert!(found.speed(step).is_some_and(|speed| speed > 0.0));
        let Some(worker) = step.parts.get(1..) else {
            continue;
        };
        let nodes: Vec<_> = worker.iter().map(|part| &part.node).collect();
        assert_eq!(nodes, step.workers.iter().collect::<Vec<_>>());
        assert!((share(step) - 1.0).abs() < 1e-9, "{step:?}");
    }
    let [alone, one, both] = &found.steps[..] else {
        panic!("{} steps", found.steps.len())
    };
    assert!(alone.parts.is_empty() && alone.traffic.rounds == 0);
    // Each has as much to do as the others: a half, and then a third.
    for (step, part) in [(one, 1.0 / 2.0), (both, 1.0 / 3.0)] {
        assert!(!step.leaves_all_with_the_leader());
        let parts = step.parts.iter().map(|part| part.share);
        assert!(parts.into_iter().all(|share| (share - part).abs() < 0.05));
        assert!(step.traffic.rounds > 0 && step.traffic.received > 0);
    }

    // The same for people, beside what was found before; and beside a report of a version that knew nothing of clusters.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("before.json");
    let path = file.to_str().expect("a path of plain characters");
    fs::write(&file, &printed).expect("a file");
    let table = cluster.bench(3, &[&EVEN[..], &["--compare", path]].concat());
    for name in ["leader alone", "+ worker-1", "+ worker-2"] {
        let line = table.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {table}"));
        assert_eq!(line.matches('×').count(), 3, "{line}");
    }
    let mut old: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    old.as_object_mut().expect("a report").remove("cluster");
    fs::write(&file, old.to_string()).expect("a file");
    let table = cluster.bench(3, &[&EVEN[..], &["--compare", path]].concat());
    assert!(table.contains("leader alone"), "{table}");
    assert!(table.contains("Rounds in which nothing is computed"));
}

#[test]
fn steps_without_memory_for_the_model_are_left_out() {
    // Two nodes have memory for the model, and one alone has not.
    let setup = Setup {
        memory: 0.55,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 2);
    let memory = cluster.memory().to_string();
    let options = ["--json", "--memory", &memory, "--sync", "strict"];
    let found = measured(&cluster.bench(3, &options));
    assert_eq!(found.mode, "strict");
    let [alone, one, both] = &found.steps[..] else {
        panic!("{} steps", found.steps.len())
    };
    assert!(alone.decode.seconds.is_empty() && found.speed(alone).is_none());
    for step in [one, both] {
        assert_eq!(step.decode.seconds.len(), 2);
        assert!((share(step) - 1.0).abs() < 1e-9, "{step:?}");
        assert!(step.concealed.iter().all(|concealed| *concealed == 0.0));
        assert!(!step.leaves_all_with_the_leader());
    }
    assert_eq!(found.speed(one), Some(1.0));
}

#[test]
fn what_is_lost_is_counted() {
    let setup = Setup {
        loss: 0.1,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 1);
    let found = measured(&cluster.bench(40, &[&EVEN[..], &["--json"]].concat()));
    let traffic = found.steps[1].traffic;
    assert!(traffic.dropped > 0, "{traffic:?}");
    assert!(traffic.made_up + traffic.asked_again > 0, "{traffic:?}");
}
