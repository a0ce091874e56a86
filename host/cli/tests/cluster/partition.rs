//! A network that comes apart between the leader and its worker, and together again.

use crate::cluster::{Cluster, Setup, evenly};
use crate::model::right_tokens;
use crate::relay::{Relay, Way};

const TOKENS: usize = 96;

/// When it happens.
const MIDDLE: usize = 20;

/// Cuts the network while a generation goes through it, and mends it.
fn cut(ways: &[Way]) {
    let setup = Setup {
        bound_ms: 1000,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 1);
    let relay = Relay::start(cluster.workers[0].port, 0.0, 1);
    let endpoints = [
        format!("tcp/127.0.0.1:{}?rel=1", relay.port),
        format!("udp/127.0.0.1:{}?rel=0", relay.port),
    ];
    let mut leader = cluster.lead_over(&endpoints, TOKENS, &evenly("strict", "f32"));
    leader.read_to(MIDDLE);
    ways.iter().for_each(|way| relay.cut(*way, true));
    leader.read_to(MIDDLE + 10);
    leader.log().wait_for(&["placement ready", "workers=0"]);
    leader.read_to(MIDDLE + 20);
    let with_it = ["placement ready", "workers=1"];
    let before = leader.log().count(&with_it);
    ways.iter().for_each(|way| relay.cut(*way, false));
    leader.log().wait_for_more(before, &with_it);
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert!(generation.report.counts.new_placements >= 2);
}

#[test]
fn both_ways() {
    cut(&[Way::There, Way::Back]);
}

#[test]
fn only_the_way_there() {
    cut(&[Way::There]);
}

#[test]
fn only_the_way_back() {
    cut(&[Way::Back]);
}
