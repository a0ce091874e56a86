//! What `halo status` shows while a generation is under way.

use crate::cluster::{Cluster, LEADER, Setup, evenly};
use crate::model::Model;

const TOKENS: usize = 64;

/// The generation waits here until the question has been answered.
const MIDDLE: usize = 20;

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
