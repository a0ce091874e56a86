//! Policies that misbehave at the head of a generation: it must not notice.

use std::path::Path;

use halo_policy::{Cause, Change};

use crate::cluster::{Answers, Cluster, LEADER, Setup, evenly};
use crate::model::right_tokens;

const TOKENS: usize = 192;

/// The file of one of the components that misbehave if they are told to.
pub(crate) fn component(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../plugins/components/testing")
        .join(format!("{name}.wasm"));
    path.to_str()
        .expect("a path of plain characters")
        .to_owned()
}

/// Puts a faulty policy in force on every node in the middle of a generation, and follows it to the end.
fn unharmed_by(policy: &str, fault: &str) {
    let setup = Setup {
        // So that workers have work whoever places it.
        memory: 0.3,
        ..Setup::default()
    };
    let cluster = Cluster::start(setup, 3);
    // scheduler-even and the built-in rule wait for everybody, so in relaxed mode too the tokens must be right.
    let mut leader = cluster.lead(TOKENS, &evenly("relaxed", "f32"));
    leader.read_to(10);
    let before = leader.meanwhile(40, || cluster.in_force());

    // A trial takes as many good calls as a pass, and a placement; a few more lead into the generation.
    let settings = [format!("fault={fault}"), "after=10".into()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let file = component(policy);
    leader.meanwhile(80, || cluster.activate(&file, &settings));
    leader.log().wait_for(&["in force", policy]);
    leader.read_to(120);
    let after = leader.meanwhile(160, || cluster.in_force());
    assert_eq!(after[LEADER], before[LEADER], "rolled back");
    counted(
        &leader.meanwhile(TOKENS - 16, || cluster.policy(&["history"])),
        policy,
    );

    let generation = leader.finish();
    let counts = &generation.report.counts;
    assert!(counts.policy_faults > 0, "{counts:?}");
    assert!(generation.logged("such faults"), "{:?}", generation.log);
    assert_eq!(counts.concealed_partials, 0, "{counts:?}");
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
}

/// Checks that the leader's history has the faults, and why it went back.
fn counted(answers: &Answers, policy: &str) {
    let nodes = answers.nodes();
    let leader = nodes.iter().find(|a| a.node == LEADER).expect("the leader");
    let kind = policy.split('-').next().expect("a kind");
    let history: Vec<Change> =
        serde_json::from_value(leader.rest[kind].clone()).expect("a list of changes");
    let [.., faulty, back] = &history[..] else {
        panic!("two changes: {history:?}")
    };
    assert_eq!(faulty.name, policy);
    // Calls that were under way when it went may have failed too.
    assert!(faulty.faults >= 3, "{faulty:?}");
    assert_eq!((back.cause, back.faults), (Cause::Faults, 0));
    let fault = back.fault.as_deref().expect("the last fault");
    assert!(fault.contains(policy), "{fault}");
}

#[test]
fn a_scheduler_that_traps() {
    unharmed_by("scheduler-faulty", "trap");
}

#[test]
fn a_scheduler_that_loops() {
    unharmed_by("scheduler-faulty", "loop");
}

#[test]
fn a_scheduler_that_is_slow() {
    unharmed_by("scheduler-faulty", "slow");
}

#[test]
fn a_scheduler_that_hoards_memory() {
    unharmed_by("scheduler-faulty", "memory");
}

#[test]
fn a_scheduler_with_results_of_the_wrong_length() {
    unharmed_by("scheduler-faulty", "length");
}

#[test]
fn a_scheduler_with_results_out_of_range() {
    unharmed_by("scheduler-faulty", "range");
}

#[test]
fn a_predictor_that_traps() {
    unharmed_by("predictor-faulty", "trap");
}

#[test]
fn a_predictor_that_loops() {
    unharmed_by("predictor-faulty", "loop");
}

#[test]
fn a_predictor_that_is_slow() {
    unharmed_by("predictor-faulty", "slow");
}

#[test]
fn a_predictor_that_hoards_memory() {
    unharmed_by("predictor-faulty", "memory");
}

#[test]
fn a_predictor_with_results_of_the_wrong_length() {
    unharmed_by("predictor-faulty", "length");
}

#[test]
fn a_predictor_that_gives_no_numbers() {
    unharmed_by("predictor-faulty", "nan");
}

/// Tries to put something in force that cannot be, and checks that nothing changes. Gives what each node said.
fn refused(policy: &str, settings: &[&str]) -> Answers {
    let cluster = Cluster::start(Setup::default(), 2);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(10);
    let before = leader.meanwhile(40, || cluster.in_force());
    let mut arguments = vec!["activate", policy];
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    let answers = leader.meanwhile(80, || cluster.policy(&arguments));
    assert_eq!(answers.code, Some(1));
    assert_eq!(leader.meanwhile(120, || cluster.in_force()), before);
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert_eq!(generation.report.counts.policy_faults, 0);
    answers
}

#[test]
fn a_policy_that_fails_its_trial_is_refused_by_every_node() {
    let answers = refused(&component("scheduler-faulty"), &["fault=trap"]);
    let nodes = answers.nodes();
    let told: Vec<&str> = nodes.iter().map(|a| a.node.as_str()).collect();
    assert_eq!(told, ["leader", "worker-1", "worker-2"]);
    for answer in &nodes {
        let words = answer.rest["error"].as_str().expect("an error in words");
        assert!(words.contains("scheduler-faulty"), "{words}");
    }
}

#[test]
fn a_file_that_is_no_component_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("garbage.wasm");
    // It begins like one, so that reading its first bytes is not enough to refuse it.
    let good = std::fs::read(component("scheduler-faulty")).expect("a component");
    std::fs::write(&file, &good[..good.len() / 2]).expect("a file");
    let answers = refused(file.to_str().expect("a path of plain characters"), &[]);
    let words = answers.said["error"].as_str().expect("an error in words");
    assert!(words.contains("garbage"), "{words}");
}
