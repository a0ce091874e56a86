//! Policies that are given to all nodes, put in force and gone back from, while tokens flow.

use std::collections::BTreeSet;

use halo_policy::{Change, Digest, Setting};
use rustix::process::Signal;

use crate::cluster::{Answers, Cluster, NodeAnswer, Setup, evenly};
use crate::faulty::component;
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

/// The schedulers that a node has had in force.
fn schedulers(node: &NodeAnswer) -> Vec<Change> {
    serde_json::from_value(node.rest["scheduler"].clone()).expect("a list of changes")
}

fn all_did(answers: &Answers) {
    assert_eq!(answers.code, Some(0), "{answers:?}");
}

#[test]
fn a_component_is_pushed_activated_and_gone_back_from() {
    /// A scheduler that does as it should unless it is told not to.
    const POLICY: &str = "scheduler-faulty";
    let file = component(POLICY);
    let digest = Digest::of(&std::fs::read(&file).expect("a component"));
    let setup = Setup {
        memory: 0.4,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(setup, 2);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(10);
    leader.meanwhile(40, || cluster.activate("scheduler-even", &[]));

    // Every node has it, and none uses it.
    all_did(&leader.meanwhile(70, || cluster.policy(&["push", &file])));
    let inspected = leader.meanwhile(90, || cluster.policy(&["inspect", POLICY]));
    all_did(&inspected);
    for node in inspected.nodes() {
        let policy = &node.rest["policy"];
        assert_eq!(policy["digest"], digest.to_string().as_str());
        assert_eq!(policy["kind"], "scheduler");
        assert_eq!(policy["exports"][0], "halo:policy/scheduler@0.1.0");
    }
    let before = leader.meanwhile(110, || cluster.in_force());
    assert!(before.values().all(|[s, _]| s == "scheduler-even"));

    // By its name, which this machine does not know.
    leader.meanwhile(150, || cluster.activate(POLICY, &["after=7"]));
    leader.meanwhile(190, || cluster.join());
    let history = leader
        .meanwhile(220, || cluster.policy(&["history"]))
        .nodes();
    assert_eq!(history.len(), 4);
    for node in &history {
        let schedulers = schedulers(node);
        let now = schedulers.last().expect("a scheduler");
        assert_eq!(now.digest, Some(digest), "{}", node.node);
        assert_eq!(now.settings, [Setting::new("after", "7")], "{}", node.node);
    }

    // Also the node that never had the one before.
    all_did(&leader.meanwhile(260, || cluster.policy(&["rollback", "scheduler"])));
    let back = leader.meanwhile(290, || cluster.in_force());
    assert!(
        back.values().all(|[s, _]| s == "scheduler-even"),
        "{back:?}"
    );
    // And forth again, by the beginning of its digest.
    let to = ["rollback", "scheduler", "--to", &digest.short()];
    all_did(&leader.meanwhile(330, || cluster.policy(&to)));
    let forth = leader.meanwhile(350, || cluster.in_force());
    assert!(forth.values().all(|[s, _]| s == POLICY), "{forth:?}");

    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert_eq!(generation.report.counts.policy_faults, 0);
}

#[test]
fn what_one_node_refuses_comes_into_force_nowhere() {
    let mut cluster = Cluster::start(Setup::default(), 1);
    // It tells the policy, when nobody else tells it anything, to fail.
    cluster.join_with("[policy.settings.scheduler-faulty]\nfault = 'trap'");
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(10);
    let before = leader.meanwhile(60, || cluster.in_force());
    let file = component("scheduler-faulty");
    let answers = leader.meanwhile(120, || cluster.policy(&["activate", &file]));
    assert_eq!(answers.code, Some(1));
    for node in answers.nodes() {
        let words = node.rest["error"].as_str().expect("an error in words");
        let expected = match node.node.as_str() {
            "worker-2" => "place trapped",
            _ => "stays with what it has, since worker-2 would not",
        };
        assert!(words.contains(expected), "{}: {words}", node.node);
    }
    assert_eq!(leader.meanwhile(180, || cluster.in_force()), before);
}

#[test]
fn a_node_that_was_out_of_sight_catches_up() {
    let mut cluster = Cluster::start(Setup::default(), 2);
    // It knows the others' addresses, and so finds them again.
    cluster.join();
    let frozen = &cluster.workers[2];
    frozen.process.signal(Signal::STOP);
    // It is a member until it is missed, and does not answer.
    let answers = cluster.policy(&["activate", "scheduler-even"]);
    let failed: Vec<String> = answers
        .nodes()
        .into_iter()
        .filter(|node| node.rest.contains_key("error"))
        .map(|node| node.node)
        .collect();
    assert!(failed.is_empty() || failed == ["worker-3"], "{answers:?}");
    frozen.process.signal(Signal::CONT);
    frozen
        .process
        .log
        .wait_for(&["taken over from the cluster", "scheduler-even"]);
}

#[test]
fn of_two_changes_at_the_same_time_all_nodes_keep_the_same() {
    let cluster = Cluster::start(Setup::default(), 2);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(10);
    for _ in 0..3 {
        leader.meanwhile(TOKENS - 32, || {
            std::thread::scope(|scope| {
                for policy in ["scheduler-even", "scheduler-halo"] {
                    // One of them may be told that the other was later.
                    scope.spawn(|| cluster.policy(&["activate", policy]));
                }
            });
        });
        let after = leader.meanwhile(TOKENS - 32, || cluster.in_force());
        let schedulers: BTreeSet<_> = after.values().map(|[scheduler, _]| scheduler).collect();
        assert_eq!(schedulers.len(), 1, "{after:?}");
    }
    assert_eq!(leader.finish().report.tokens, right_tokens(TOKENS));
}
