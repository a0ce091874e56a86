//! What `halo status` shows while a generation is under way.

use crate::cluster::{Cluster, LEADER, Setup, evenly};
use crate::model::Model;
use halo_runtime::PlannedDevice;

const TOKENS: usize = 64;

/// The generation waits here until the question has been answered.
const MIDDLE: usize = 20;

#[test]
fn the_plan_accounts_for_every_group() {
    let cluster = Cluster::start(Setup::default(), 2);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(1);
    let plan = leader.meanwhile(MIDDLE, || cluster.plan());
    assert_eq!(plan.scheduler, "scheduler-even");
    let shares = plan.devices.iter().map(|d| (d.node.to_string(), d.share));
    assert_eq!(shares.collect::<Vec<_>>(), leader.shares);
    let sum = |of: fn(&PlannedDevice) -> f64| plan.devices.iter().map(of).sum::<f64>();
    assert!((sum(|d| d.share) - 1.0).abs() < 1e-6);
    assert!((sum(|d| d.importance) - 1.0).abs() < 1e-3);
    let all = Model::Exact.package().all_groups_bytes();
    let used = plan.devices.iter().map(|d| d.memory_used);
    assert_eq!(used.sum::<u64>(), all);
    for device in &plan.devices {
        assert!(device.part_us > 0.0 && !device.why.is_empty(), "{device:?}");
    }
    leader.finish();
}

#[test]
fn workers_have_loaded_what_they_were_asked_to_compute() {
    let cluster = Cluster::start(Setup::default(), 2);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(1);
    let status = leader.meanwhile(MIDDLE, || cluster.status());
    let package = Model::Exact.package();
    let mut workers = 0;
    for node in status {
        let bytes = |key: &str| node["loading"][key].as_u64().expect("bytes");
        let (assigned, loaded) = (bytes("assigned"), bytes("loaded"));
        assert_eq!(assigned, loaded, "{node}");
        if node["node"] == LEADER {
            assert_eq!(assigned, 0, "{node}");
        } else {
            workers += 1;
            let share = assigned as f64 / package.all_groups_bytes() as f64;
            assert!((0.2..0.5).contains(&share), "{node}");
        }
    }
    assert_eq!(workers, 2);
    leader.finish();
}

#[test]
fn top_shows_who_leads_whom() {
    let cluster = Cluster::start(Setup::default(), 2);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(1);
    let text = leader.meanwhile(MIDDLE, || cluster.top());
    let line = |begin: &str| {
        let mut lines = text.lines();
        lines.find(|line| line.starts_with(begin)).unwrap_or("")
    };
    assert!(line("halo top").ends_with("3 nodes"), "{text}");
    let states = [
        (LEADER, "leads"),
        ("worker-1", "works"),
        ("worker-2", "works"),
    ];
    for (node, state) in states {
        let words: Vec<&str> = line(node).split_whitespace().collect();
        assert_eq!(words[..2], [node, state], "{text}");
    }
    assert!(text.contains("1 generation under way"), "{text}");
    assert!(text.contains("scheduler-even"), "{text}");
    leader.finish();
}
