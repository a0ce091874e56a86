//! Strict synchronisation: what the network loses does not change a single token.

use std::sync::OnceLock;

use crate::cluster::{Cluster, Setup, evenly};
use crate::leader::Generation;
use crate::model::{Model, right_tokens};

const TOKENS: usize = 64;
const WORKERS: usize = 3;

/// Generates on four nodes that each lose so many packets.
fn generate(model: Model, wire: &str, loss: f64) -> Generation {
    let setup = Setup {
        model,
        loss,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, WORKERS);
    let generation = cluster.lead(TOKENS, &evenly("strict", wire)).finish();
    assert_eq!(generation.tokens.len(), TOKENS);
    let counts = &generation.report.counts;
    assert_eq!(counts.new_placements, 0, "the placement stays the same");
    assert_eq!(counts.repeated_rounds, 0);
    assert_eq!(counts.partials, WORKERS as u64 * counts.rounds);
    assert_eq!(counts.concealed_partials, 0, "strict conceals nothing");
    assert!(generation.tokens.iter().all(|t| t.concealed == 0.0));
    if loss > 0.0 {
        assert!(counts.asked_again + counts.made_up > 0, "{counts:?}");
    }
    assert_eq!(counts.packets_lost > 0, loss > 0.0, "{counts:?}");
    generation
}

/// The default model with its default of 8-bit tensors on the wire, against the same with nothing lost.
fn as_without_loss(loss: f64) {
    static LOSSLESS: OnceLock<Generation> = OnceLock::new();
    let lossless = LOSSLESS.get_or_init(|| generate(Model::Default, "q8", 0.0));
    let lossy = generate(Model::Default, "q8", loss);
    assert_eq!(lossy.shares, lossless.shares);
    assert_eq!(lossy.report.tokens, lossless.report.tokens);
    assert_eq!(lossy.report.text, lossless.report.text);
}

#[test]
fn a_tenth_of_the_packets_lost_changes_nothing() {
    as_without_loss(0.1);
}

#[test]
fn three_tenths_of_the_packets_lost_change_nothing() {
    as_without_loss(0.3);
}

#[test]
fn four_processes_generate_what_one_does() {
    let generation = generate(Model::Exact, "f32", 0.0);
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    let nodes: Vec<&str> = generation.shares.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(nodes, ["leader", "worker-1", "worker-2", "worker-3"]);
    for (node, share) in &generation.shares {
        assert!((share - 0.25).abs() < 0.01, "{node} has {share}");
    }
}

#[test]
fn four_processes_that_lose_a_tenth_generate_what_one_does() {
    let generation = generate(Model::Exact, "f32", 0.1);
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
}

#[test]
fn four_processes_that_lose_three_tenths_generate_what_one_does() {
    let generation = generate(Model::Exact, "f32", 0.3);
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
}
