//! Workers that die, freeze and join while tokens flow.

use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{Cluster, Setup, evenly};
use crate::leader::{IN_VAIN, Leader};
use crate::model::right_tokens;

const TOKENS: usize = 64;

/// When it happens.
const MIDDLE: usize = 20;

/// As nodes are by default: who does not answer for a second is suspected to be dead.
fn suspicious(workers: usize) -> Cluster {
    let setup = Setup {
        bound_ms: 1000,
        ..Setup::default()
    };
    Cluster::start(setup, workers)
}

/// Nobody is suspected; a death has to be noticed.
fn trusting(workers: usize) -> Cluster {
    Cluster::start(Setup::default(), workers)
}

/// A leader in the middle of its generation.
fn lead(cluster: &Cluster, sync: &str) -> Leader {
    let mut leader = cluster.lead(TOKENS, &evenly(sync, "f32"));
    leader.read_to(MIDDLE);
    leader
}

#[test]
fn strict_goes_on_right_without_a_killed_worker() {
    let mut cluster = trusting(3);
    let leader = lead(&cluster, "strict");
    cluster.workers[1].process.kill();
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert!(generation.report.counts.new_placements >= 1);
    assert_eq!(generation.report.counts.concealed_partials, 0);
    assert!(!generation.logged(IN_VAIN), "{:?}", generation.log);
}

#[test]
fn relaxed_goes_on_without_a_killed_worker() {
    let mut cluster = suspicious(3);
    let mut leader = lead(&cluster, "relaxed");
    cluster.workers[1].process.kill();
    leader.read_to(MIDDLE + 10);
    leader.log().wait_for(&["placement ready", "workers=2"]);
    let generation = leader.finish();
    assert_eq!(generation.tokens.len(), TOKENS);
    assert!(generation.report.counts.new_placements >= 1);
    // With the new placement nobody is missed any more.
    assert_eq!(generation.tokens[TOKENS - 1].concealed, 0.0);
}

#[test]
fn all_workers_killed_leave_the_leader_alone() {
    let mut cluster = trusting(2);
    let leader = lead(&cluster, "strict");
    for worker in &mut cluster.workers {
        worker.process.kill();
    }
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert!(generation.report.counts.new_placements >= 1);
    assert!(!generation.logged(IN_VAIN), "{:?}", generation.log);
}

#[test]
fn a_frozen_worker_is_done_without_until_it_is_back() {
    let cluster = suspicious(3);
    let mut leader = lead(&cluster, "relaxed");
    let frozen = &cluster.workers[1];
    frozen.process.signal(Signal::STOP);
    leader.read_to(MIDDLE + 10);
    leader.log().wait_for(&["placement ready", "workers=2"]);
    leader.read_to(MIDDLE + 20);
    let placements = leader.log().count(&["placement ready", "workers=3"]);
    frozen.process.signal(Signal::CONT);
    leader
        .log()
        .wait_for_more(placements, &["placement ready", "workers=3"]);
    let generation = leader.finish();
    assert_eq!(generation.tokens.len(), TOKENS);
    assert!(generation.report.counts.new_placements >= 2);
    assert_eq!(generation.tokens[TOKENS - 1].concealed, 0.0);
}

#[test]
fn a_worker_that_stops_again_and_again_is_waited_for() {
    let cluster = trusting(2);
    let mut leader = lead(&cluster, "strict");
    let slow = &cluster.workers[0].process;
    leader.meanwhile(TOKENS / 2, || {
        for _ in 0..30 {
            slow.signal(Signal::STOP);
            std::thread::sleep(Duration::from_millis(30));
            slow.signal(Signal::CONT);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    let counts = &generation.report.counts;
    assert_eq!(counts.new_placements, 0);
    assert_eq!(counts.partials, 2 * counts.rounds);
}

#[test]
fn a_worker_that_joins_gets_work() {
    let mut cluster = trusting(2);
    let mut leader = lead(&cluster, "strict");
    assert_eq!(leader.shares.len(), 3);
    leader.meanwhile(TOKENS / 2, || cluster.join());
    leader.log().wait_for(&["placement ready", "workers=3"]);
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    let counts = &generation.report.counts;
    assert!(counts.new_placements >= 1);
    // Two workers each round at first, three at last.
    assert!(counts.partials > 2 * counts.rounds, "{counts:?}");
}

#[test]
fn a_killed_worker_that_had_found_the_leader_is_missed_as_well() {
    let mut cluster = trusting(1);
    let mut leader = lead(&cluster, "strict");
    leader.meanwhile(TOKENS / 2, || cluster.join());
    leader.log().wait_for(&["placement ready", "workers=2"]);
    leader.read_to(TOKENS / 2 + 4);
    cluster.workers[1].process.kill();
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert!(generation.report.counts.new_placements >= 2);
    assert!(!generation.logged(IN_VAIN), "{:?}", generation.log);
}

#[test]
fn a_death_is_noticed_while_a_frozen_worker_is_asked_to_take_more() {
    let mut cluster = trusting(2);
    let leader = lead(&cluster, "strict");
    cluster.workers[0].process.signal(Signal::STOP);
    cluster.workers[1].process.kill();
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert!(generation.report.counts.new_placements >= 1);
    assert!(!generation.logged(IN_VAIN), "{:?}", generation.log);
}
