//! Attention shared with workers, which keep a part of the keys and values.

use rustix::process::Signal;

use crate::cluster::{Cluster, Setup};
use crate::leader::{Generation, Leader};
use crate::model::{Model, right_tokens};

const TOKENS: usize = 64;
const WORKERS: usize = 2;

/// When it happens.
const MIDDLE: usize = 20;

/// A leader that computes two KV heads of four, as do its workers together.
fn lead(cluster: &Cluster, sync: &str, tokens: usize) -> Leader {
    let options = [
        "--sync",
        sync,
        "--scheduler",
        "scheduler-even",
        "--wire",
        "f32",
        "--attention",
        "even",
    ];
    cluster.lead(tokens, &options)
}

fn start(loss: f64) -> Cluster {
    let setup = Setup {
        loss,
        ..Setup::default()
    };
    Cluster::start(setup, WORKERS)
}

/// A round for each layer's attention, and one for its feed-forward.
fn has_rounds(generation: &Generation) {
    let counts = &generation.report.counts;
    let layers = Model::Exact.package().shape().layers as u64;
    assert!(counts.rounds >= 2 * layers * TOKENS as u64, "{counts:?}");
    assert_eq!(counts.partials, WORKERS as u64 * counts.rounds);
}

#[test]
fn four_heads_on_three_nodes_generate_what_one_node_does() {
    let cluster = start(0.0);
    let mut leader = lead(&cluster, "strict", TOKENS);
    leader.read_to(1);
    let plan = leader.meanwhile(MIDDLE, || cluster.plan());
    let heads: Vec<usize> = plan.devices.iter().map(|d| d.heads).collect();
    assert_eq!(heads, [2, 1, 1]);
    let generation = leader.finish();
    has_rounds(&generation);
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert_eq!(generation.report.counts.holes, 0);
}

#[test]
fn a_tenth_of_the_packets_lost_changes_nothing() {
    let cluster = start(0.1);
    let generation = lead(&cluster, "strict", TOKENS).finish();
    has_rounds(&generation);
    let counts = &generation.report.counts;
    assert!(
        counts.asked_again > 0 && counts.packets_lost > 0,
        "{counts:?}"
    );
    assert_eq!((counts.concealed_partials, counts.holes), (0, 0));
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
}

#[test]
fn a_killed_workers_heads_are_computed_anew() {
    let mut cluster = start(0.0);
    let mut leader = lead(&cluster, "strict", TOKENS);
    leader.read_to(MIDDLE);
    cluster.workers[1].process.kill();
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    let counts = &generation.report.counts;
    assert!(counts.new_placements >= 1, "{counts:?}");
    assert_eq!((counts.concealed_partials, counts.holes), (0, 0));
}

#[test]
fn all_workers_killed_leave_the_leader_all_heads() {
    let mut cluster = start(0.0);
    let mut leader = lead(&cluster, "strict", TOKENS);
    leader.read_to(MIDDLE);
    for worker in &mut cluster.workers {
        worker.process.kill();
    }
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
}

#[test]
fn a_worker_that_joins_gets_heads() {
    let mut cluster = start(0.0);
    let mut leader = lead(&cluster, "strict", TOKENS);
    leader.meanwhile(TOKENS / 2, || {
        cluster.join();
    });
    leader.log().wait_for(&["placement ready", "workers=3"]);
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
}

/// A worker has memory for the groups, heads, keys and values of two leaders, and has to free those of leaders that have left.
#[test]
fn leaders_that_have_left_make_room_for_others() {
    let cluster = start(0.0);
    for _ in 0..5 {
        let mut leader = lead(&cluster, "strict", MIDDLE + 16);
        leader.read_to(1);
        let plan = leader.meanwhile(MIDDLE, || cluster.plan());
        for worker in &plan.devices[1..] {
            assert!(
                worker.heads > 0 && worker.memory < 3 * worker.memory_used,
                "{plan:?}"
            );
        }
        assert_eq!(leader.finish().report.tokens, right_tokens(MIDDLE + 16));
    }
}

/// While a worker stands still, tokens come without its heads; afterwards it is sent what it has missed.
#[test]
fn what_a_worker_has_missed_is_a_hole_until_it_is_filled() {
    let setup = Setup {
        loss: 0.1,
        config: "[policy.settings.scheduler-halo]\nbudget = '1'\nneeded-share = '1'",
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, WORKERS);
    let options = [
        "--sync",
        "relaxed",
        "--scheduler",
        "scheduler-halo",
        "--attention",
        "even",
    ];
    let mut leader = cluster.lead(3 * TOKENS, &options);
    leader.read_to(MIDDLE);
    let worker = &cluster.workers[0].process;
    worker.signal(Signal::STOP);
    leader.read_to(2 * MIDDLE);
    worker.signal(Signal::CONT);
    let generation = leader.finish();
    assert_eq!(generation.tokens.len(), 3 * TOKENS);
    let counts = &generation.report.counts;
    assert!(counts.holes > 0, "{counts:?}");
    assert!(
        counts.holes_filled > 0 && counts.holes_filled <= counts.holes,
        "{counts:?}"
    );
}
