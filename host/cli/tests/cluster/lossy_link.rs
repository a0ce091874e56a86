//! Loss on the wire itself: zenoh's datagrams go through relays that drop some of them.

use crate::cluster::{Cluster, Setup, evenly};
use crate::model::right_tokens;
use crate::relay::Relay;

const TOKENS: usize = 64;

/// Share of datagrams dropped each way.
const RATE: f64 = 0.05;

#[test]
fn datagrams_lost_on_the_wire_change_nothing() {
    let cluster = Cluster::start(Setup::default(), 3);
    let relays: Vec<Relay> = (1..)
        .zip(&cluster.workers)
        .map(|(seed, worker)| Relay::start(worker.port, RATE, seed))
        .collect();
    let endpoints: Vec<String> = cluster
        .workers
        .iter()
        .zip(&relays)
        .flat_map(|(worker, relay)| {
            [
                format!("tcp/127.0.0.1:{}?rel=1", worker.port),
                format!("udp/127.0.0.1:{}?rel=0", relay.port),
            ]
        })
        .collect();
    let leader = cluster.lead_over(&endpoints, TOKENS, &evenly("strict", "f32"));
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));

    let counts = &generation.report.counts;
    assert!(counts.asked_again + counts.made_up > 0, "{counts:?}");
    assert_eq!(counts.concealed_partials, 0);
    let (passed, dropped) = relays
        .iter()
        .map(Relay::counts)
        .fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
    // The tensors went this way. Those that wait for one another may share a datagram, so there can be fewer datagrams than
    // packets, but not by much.
    let packets = counts.packets_sent + counts.packets_received;
    assert!(
        10 * (passed + dropped) >= 9 * packets,
        "{passed} passed and {dropped} dropped of {counts:?}"
    );
    for relay in &relays {
        assert!(relay.counts().1 > 0, "{relay:?}");
    }
}
