//! Several leaders, at once and one after another.

use crate::cluster::{Cluster, LEADER, Setup, evenly};
use crate::model::right_tokens;

const TOKENS: usize = 64;

#[test]
fn two_leaders_share_the_workers() {
    let cluster = Cluster::start(Setup::default(), 2);
    let options = evenly("strict", "f32");
    let mut leaders = [LEADER, "another"].map(|name| cluster.lead_as(name, TOKENS, &options));
    // Neither is far ahead of the other, and both get on.
    for count in (4..TOKENS / 2).step_by(4) {
        leaders.iter_mut().for_each(|leader| leader.read_to(count));
    }
    for leader in leaders {
        let generation = leader.finish();
        assert_eq!(generation.report.tokens, right_tokens(TOKENS));
        let counts = &generation.report.counts;
        assert_eq!(counts.partials, 2 * counts.rounds, "both workers helped");
        assert_eq!(counts.new_placements, 0);
    }
}

#[test]
fn what_a_dead_leader_held_is_free_again() {
    let setup = Setup {
        // Each worker has room for one leader's groups.
        memory: 0.4,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 2);
    let options = evenly("strict", "f32");
    let mut first = cluster.lead_as(LEADER, TOKENS, &options);
    first.read_to(TOKENS / 4);
    first.kill();
    let second = cluster.lead_as("another", TOKENS, &options);
    let generation = second.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert_eq!(generation.shares.len(), 3);
}
