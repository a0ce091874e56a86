//! Schedulers that are swapped on all nodes while tokens flow.

use crate::cluster::{Cluster, Setup, evenly};
use crate::model::right_tokens;

const TOKENS: usize = 384;

#[test]
fn schedulers_are_swapped_without_losing_a_token() {
    let setup = Setup {
        // With more, scheduler-halo would have the leader do everything.
        memory: 0.3,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(setup, 3);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(10);
    let before = leader.meanwhile(60, || cluster.in_force());
    assert_eq!(before["leader"][0], "scheduler-even");
    assert_eq!(
        before["worker-1"][0], "scheduler-halo",
        "what nodes begin with"
    );

    leader.meanwhile(120, || cluster.activate("scheduler-halo", &[]));
    leader.read_to(130);
    let after = leader.meanwhile(160, || cluster.in_force());
    assert!(
        after
            .values()
            .all(|[scheduler, _]| scheduler == "scheduler-halo"),
        "{after:?}"
    );

    leader.meanwhile(220, || cluster.activate("scheduler-even", &[]));
    leader.read_to(230);
    let back = leader.meanwhile(260, || cluster.in_force());
    assert!(
        back.values()
            .all(|[scheduler, _]| scheduler == "scheduler-even"),
        "{back:?}"
    );

    // A node by itself begins with scheduler-halo; one that comes later takes over what is in force.
    leader.meanwhile(290, || cluster.join());
    leader.log().wait_for(&["placement ready", "workers=4"]);
    let joined = leader.meanwhile(310, || cluster.in_force());
    assert_eq!(joined.len(), 5);
    assert!(
        joined
            .values()
            .all(|[scheduler, _]| scheduler == "scheduler-even"),
        "{joined:?}"
    );

    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    let counts = &generation.report.counts;
    assert_eq!((counts.policy_faults, counts.repeated_rounds), (0, 0));
    assert!(counts.new_placements >= 1, "{counts:?}");
}
