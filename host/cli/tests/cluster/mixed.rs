//! Machines with different processors in one cluster: the leader's is this one's, the worker's is emulated.

use std::ffi::OsString;

use crate::cluster::{Cluster, Setup, evenly};
use crate::leader::Generation;
use crate::relay::Relay;

const TOKENS: usize = 64;

/// Share of datagrams dropped each way.
const RATE: f64 = 0.05;

/// How far a token's log-probability may be from what machines of one kind find, with 32-bit weights and tensors.
const TOLERANCE: f32 = 1e-4;

/// Generates with one worker behind a link that loses datagrams, and waits for everything.
fn generate(worker: Option<OsString>) -> Generation {
    let setup = Setup {
        worker,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 1);
    let port = cluster.workers[0].port;
    let relay = Relay::start(port, RATE, 1);
    let endpoints = [
        format!("tcp/127.0.0.1:{port}?rel=1"),
        format!("udp/127.0.0.1:{}?rel=0", relay.port),
    ];
    let options = [&evenly("strict", "f32")[..], &["--logprobs", "1"]].concat();
    let generation = cluster.lead_over(&endpoints, TOKENS, &options).finish();
    let counts = &generation.report.counts;
    assert!(counts.asked_again + counts.made_up > 0, "{counts:?}");
    assert!(relay.counts().1 > 0, "{relay:?}");
    generation
}

#[test]
#[ignore = "needs a program for another processor: cargo xtask test --aarch64"]
fn a_worker_with_another_processor_changes_next_to_nothing() {
    let another = std::env::var_os("HALO_TEST_WORKER").expect("HALO_TEST_WORKER names a program");
    let alike = generate(None);
    let mixed = generate(Some(another));
    assert_eq!(mixed.report.tokens, alike.report.tokens);
    let logprobs = |generation: &Generation| -> Vec<f32> {
        let tokens = generation.tokens.iter();
        tokens
            .map(|token| token.logprobs.as_ref().expect("log-probabilities").logprob)
            .collect()
    };
    let pairs = logprobs(&mixed).into_iter().zip(logprobs(&alike));
    let furthest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("log-probabilities differ by up to {furthest:e}");
    assert!(furthest <= TOLERANCE, "{furthest:e}");

    // Two processors do not round alike, so it is said.
    const MIXED: &str = "has another kind of processor";
    assert!(mixed.logged(MIXED), "{:?}", mixed.log);
    assert!(!alike.logged(MIXED), "{:?}", alike.log);
}
