//! The ways in which nodes can be joined. In each, all of them generate what one process does.

use serde_json::Value;

use crate::cluster::{Cluster, Setup, evenly, listening_at};
use crate::model::right_tokens;
use crate::ports::free_port;
use crate::process::{Process, halo};

const TOKENS: usize = 24;

/// A router's process.
struct Router {
    port: u16,
    _process: Process,
}

impl Router {
    /// A router that connects to others.
    fn start(others: &[&Self]) -> Self {
        let port = free_port();
        let mut command = halo(["router", "--json"]);
        command.args(listening_at(port));
        for other in others {
            command.args(["--connect", &format!("127.0.0.1:{}", other.port)]);
        }
        let mut process = Process::start("router", command);
        let ready: Option<Value> = process.next();
        assert_eq!(ready.expect("an event")["event"], "ready");
        Self {
            port,
            _process: process,
        }
    }

    /// Network options of its clients.
    fn client(&self) -> Vec<String> {
        let mut options = vec!["--client".to_owned()];
        options.extend(self.peer());
        options
    }

    /// Network options of a node that connects to it as an equal.
    fn peer(&self) -> Vec<String> {
        let address = format!("127.0.0.1:{}", self.port);
        ["--no-scouting".into(), "--connect".into(), address].to_vec()
    }
}

/// Generates with workers and a leader that have these network options.
fn generate(workers: &[Vec<String>], leader: &[String]) {
    let cluster = Cluster::start_over(Setup::default(), workers);
    let leader = cluster.lead_by(leader, TOKENS, &evenly("strict", "f32"));
    let generation = leader.finish();
    assert_eq!(generation.shares.len(), 1 + workers.len());
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    let counts = &generation.report.counts;
    assert_eq!(counts.partials, workers.len() as u64 * counts.rounds);
}

#[test]
fn nodes_that_find_one_another() {
    generate(&[Vec::new(), Vec::new()], &[]);
}

#[test]
fn clients_of_a_router() {
    let router = Router::start(&[]);
    generate(&[router.client(), router.client()], &router.client());
}

#[test]
fn two_routers_in_a_row() {
    let near = Router::start(&[]);
    let far = Router::start(&[&near]);
    generate(&[far.client(), far.client()], &near.client());
}

#[test]
fn some_by_a_router_and_some_directly() {
    let router = Router::start(&[]);
    let port = free_port();
    let mut leader = router.peer();
    leader.extend(["--connect".into(), format!("127.0.0.1:{port}")]);
    let workers = [listening_at(port), router.client(), router.peer()];
    generate(&workers, &leader);
}

#[test]
fn a_worker_that_is_not_reached_over_udp_is_told_of() {
    let cluster = Cluster::start(Setup::default(), 1);
    let worker = &cluster.workers[0];
    let endpoint = format!("tcp/127.0.0.1:{}?rel=1", worker.port);
    let leader = cluster.begin_over(&[endpoint], 8, &[]);
    let warning = format!("nothing comes from node `{}` over UDP", worker.name);
    leader.log.wait_for(&[&warning]);
}

#[test]
fn nodes_that_send_tensors_over_different_things_are_told_so() {
    let cluster = Cluster::start(Setup::default(), 1);
    let output = cluster.try_to_lead(&["--transport", "tcp"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "worker-1 sends tensors over UDP and leader over TCP; start all nodes of a cluster with the same --transport";
    assert!(said.contains(expected), "{said}");
}
