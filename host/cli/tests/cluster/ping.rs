//! Rounds in which nothing is computed.

use crate::cluster::{Cluster, Setup};

/// Rounds of so many rows with two workers, on nodes that lose so many packets.
fn ping(loss: f64, rows: &str, copies: &str) {
    const ROUNDS: usize = 50;
    let setup = Setup {
        loss,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 2);
    let (rounds, lossy) = (ROUNDS.to_string(), loss.to_string());
    let options = ["--rounds", &rounds, "--rows", rows, "--copies", copies];
    let options = [&options[..], &["--loss", &lossy]].concat();
    let pinged = cluster.ping(&options);
    let nodes: Vec<_> = pinged.keys().map(String::as_str).collect();
    assert_eq!(nodes, ["worker-1", "worker-2"]);
    for rounds in pinged.values() {
        assert_eq!((rounds.rounds, rounds.lost), (ROUNDS, 0), "{rounds:?}");
        assert!(0.0 < rounds.median_us && rounds.median_us <= rounds.p95_us);
        assert!(rounds.p95_us <= rounds.p99_us && rounds.p99_us <= rounds.longest_us);
        assert!(
            loss == 0.0 || copies != "1" || rounds.asked_again + rounds.made_up > 0,
            "{rounds:?}"
        );
    }
}

#[test]
fn rounds_are_measured_without_computing() {
    ping(0.0, "1", "1");
}

#[test]
fn packets_are_sent_as_often_as_is_said() {
    ping(0.2, "1", "4");
}

#[test]
fn rounds_of_several_packets_end_whatever_is_lost() {
    ping(0.2, "64", "1");
}
