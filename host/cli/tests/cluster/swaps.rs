//! Hundreds of swaps in the middle of one generation on a bad network.

use halo_policy::{Kind, PolicyStore};
use halo_runtime::{Choice, rollout};

use crate::cluster::{Cluster, Setup, evenly};
use crate::model::right_tokens;

const TOKENS: usize = 384;
const SWAPS: usize = 200;

/// Every other swap is of the scheduler, and every second of those back.
const POLICIES: [&str; 4] = [
    "scheduler-halo",
    "predictor-static",
    "scheduler-even",
    "predictor-probe",
];

#[test]
fn two_hundred_swaps_at_a_tenth_lost_change_no_token() {
    let setup = Setup {
        loss: 0.1,
        // With more, scheduler-halo would have the leader do everything.
        memory: 0.3,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 3);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let fabric = runtime.block_on(cluster.observe());
    let policies = POLICIES.map(|name| PolicyStore::builtin().get(name).expect("a policy"));
    for swap in 0..SWAPS {
        leader.read_to(8 + swap * 9 / 5);
        let stored = &policies[swap % policies.len()];
        let choice = Choice {
            kind: Kind::of(&stored.bytes).expect("a policy"),
            name: stored.name.clone(),
            digest: Some(stored.digest),
            settings: Vec::new(),
        };
        let answers = runtime.block_on(rollout::activate(&fabric, &choice, &stored.bytes));
        assert_eq!(answers.len(), 4);
        for (node, answer) in answers {
            answer.unwrap_or_else(|error| panic!("swap {swap} on {node}: {error}"));
        }
    }
    runtime.block_on(fabric.close());
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    let counts = &generation.report.counts;
    assert_eq!((counts.policy_faults, counts.concealed_partials), (0, 0));
    assert!(counts.packets_lost > 0, "{counts:?}");
    assert!(counts.new_placements > 0, "{counts:?}");
    let log = &generation.log;
    let swaps = log.iter().filter(|line| line.contains(" in force policy="));
    assert!(swaps.count() >= SWAPS, "{log:?}");
}
