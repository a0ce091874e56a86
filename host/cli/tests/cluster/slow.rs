//! A worker that becomes slow in the middle of a generation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{Cluster, Setup};

const TOKENS: usize = 200;

/// The leader has to be there when it is asked at the end, and is some tokens ahead.
const MOST: usize = TOKENS - 40;

/// Keeps a worker from its work for most of the time until it is told to stop.
pub(crate) fn hold_up(cluster: &Cluster, worker: usize, until: &AtomicBool) {
    let process = &cluster.workers[worker].process;
    while !until.load(Ordering::Relaxed) {
        process.signal(Signal::STOP);
        thread::sleep(Duration::from_millis(25));
        process.signal(Signal::CONT);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Slows down a worker that has work until there is a new placement, or for so many tokens. Gives its share of the groups before and
/// after, and the number of new placements.
fn slowed(sync: &str, most: usize) -> (f64, f64, u64) {
    let setup = Setup {
        // Two workers have to help, and there are three.
        memory: 0.4,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 3);
    let options = ["--sync", sync, "--scheduler", "scheduler-halo"];
    let mut leader = cluster.lead(TOKENS, &options);
    let share = |name: &str| {
        let plan = cluster.plan();
        let of = |node: &&halo_runtime::PlannedDevice| node.node.to_string() == name;
        plan.devices.iter().find(of).expect("a part").share
    };
    let (name, before) = leader.shares[1..]
        .iter()
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .cloned()
        .expect("a worker");
    assert!(before > 0.0);
    let worker = cluster.workers.iter().position(|w| w.name == name);
    let worker = worker.expect("one of ours");

    let over = AtomicBool::new(false);
    let after = thread::scope(|scope| {
        scope.spawn(|| hold_up(&cluster, worker, &over));
        let log = leader.log().clone();
        // A token from time to time, so that rounds go on for as long as it takes.
        let mut tokens = 0;
        while tokens < most && log.count(&["placement ready", "epoch=2"]) == 0 {
            leader.read_to(tokens + 1);
            tokens += 1;
            thread::sleep(Duration::from_millis(25));
        }
        over.store(true, Ordering::Relaxed);
        leader.meanwhile(TOKENS - 20, || share(&name))
    });
    let generation = leader.finish();
    assert_eq!(generation.tokens.len(), TOKENS);
    let counts = generation.report.counts;
    assert_eq!(counts.repeated_rounds, 0, "{counts:?}");
    (before, after, counts.new_placements)
}

#[test]
fn relaxed_leaves_it_less_to_do_and_loses_no_token() {
    let (before, after, placements) = slowed("relaxed", MOST);
    assert!(after < before, "from {before} to {after}");
    assert!(placements >= 1);
}

#[test]
fn strict_stays_on_its_placement() {
    let (before, after, placements) = slowed("strict", 40);
    assert!((after - before).abs() < 1e-9, "from {before} to {after}");
    assert_eq!(placements, 0);
}
