//! Relaxed synchronisation: bounded, and honest about what it went without.

use crate::cluster::{Cluster, Setup};
use crate::leader::{Generation, IN_VAIN};
use crate::model::Model;

const TOKENS: usize = 64;
const WORKERS: usize = 3;

/// Rows of one pass over the prompt.
const PREFILL_ROWS: usize = 32;

/// Generates at 10 % loss under `scheduler-halo` with a budget, as its configuration has it.
fn generate(config: &'static str) -> Generation {
    let setup = Setup {
        model: Model::Default,
        loss: 0.1,
        // With more, the leader would do best alone.
        memory: 0.3,
        config,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, WORKERS);
    let options = ["--sync", "relaxed", "--scheduler", "scheduler-halo"];
    let generation = cluster.lead(TOKENS, &options).finish();
    assert_eq!(generation.tokens.len(), TOKENS);

    // One round a layer and pass, and not one more.
    let report = &generation.report;
    let passes = report.prompt_tokens.div_ceil(PREFILL_ROWS) + TOKENS - 1;
    let layers = Model::Default.package().shape().layers;
    assert!(
        report.prompt_tokens > PREFILL_ROWS,
        "the prompt takes several passes"
    );
    assert_eq!(report.counts.rounds, (layers * passes) as u64);
    assert_eq!(report.counts.repeated_rounds, 0);
    assert!(report.counts.partials > 0, "workers have work");
    assert!(report.counts.asked_again > 0);
    assert!(report.counts.packets_lost > 0);
    assert_eq!(report.counts.policy_faults, 0, "{:?}", generation.log);
    assert!(!generation.logged(IN_VAIN), "{:?}", generation.log);
    generation
}

/// Checks that no token went without more than this.
fn within_budget(generation: &Generation, budget: f32) {
    for token in &generation.tokens {
        assert!(
            (0.0..=budget + 1e-5).contains(&token.concealed),
            "token {} went without {} of a budget of {budget}",
            token.index,
            token.concealed
        );
    }
}

#[test]
fn the_default_budget_is_kept() {
    within_budget(&generate(""), 0.02);
}

#[test]
fn a_large_budget_is_used_and_accounted_for() {
    let generation = generate(
        "[policy.settings.scheduler-halo]\nbudget = '0.25'\nneeded-share = '1'\ndouble-loss = '1'",
    );
    within_budget(&generation, 0.25);
    let report = &generation.report;
    assert!(report.counts.concealed_partials > 0, "{:?}", report.counts);
    assert!(report.concealed > 0.0);
}

#[test]
fn a_text_is_read_by_a_real_cluster() {
    let setup = Setup {
        model: Model::Default,
        loss: 0.1,
        memory: 0.3,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, WORKERS);
    let text = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/tests/data/valid-stories.txt"
    );
    let read = cluster.eval(&["perplexity", "--documents", "1", "--text", text]);
    let conditions = &read[0]["conditions"];
    let tally = &conditions["tallies"][0];
    let layers = Model::Default.package().shape().layers as u64;
    let tokens = read[0]["tokens"].as_u64().unwrap();
    assert_eq!(
        tally["rounds"],
        layers * tokens,
        "one round a layer and token"
    );
    assert!(tally["partials"].as_u64().unwrap() > 0, "{tally}");
    assert!(
        (0.0..=0.02).contains(&tally["concealed"].as_f64().unwrap()),
        "{tally}"
    );
    let change = read[0]["change"]["mean"].as_f64().unwrap();
    assert!(change.abs() < 0.05, "{change}");
}
