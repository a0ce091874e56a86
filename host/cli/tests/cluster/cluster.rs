//! A cluster on this machine: workers to lead, and its policies.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use halo_fabric::{Fabric, FabricConfig};
use halo_runtime::{Pinged, Planned, PolicyEntry};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::leader::Leader;
use crate::model::{Model, PROMPT};
use crate::ports::free_port;
use crate::process::{HANG, Process, command_of, halo, run};

/// Clusters that run at the same time; each is four processes or more.
const CLUSTERS: usize = 2;

/// The leader's name.
pub(crate) const LEADER: &str = "leader";

/// What the nodes of a cluster have in common.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) model: Model,
    /// Share of tensor packets that each node loses.
    pub(crate) loss: f64,
    /// Share of all neuron groups that each node has memory for.
    pub(crate) memory: f64,
    /// How long anybody is waited for, in milliseconds.
    pub(crate) bound_ms: u64,
    /// More of the configuration file.
    pub(crate) config: &'static str,
    /// What the workers run, if it is not what the leader runs.
    pub(crate) worker: Option<OsString>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            model: Model::Exact,
            loss: 0.0,
            memory: 1.0,
            // On a busy machine a node may be slow to answer; where nobody dies, nobody is to be suspected of it.
            bound_ms: 60_000,
            config: "",
            worker: None,
        }
    }
}

/// Options of a leader that gives every node as much to do, and whose tensors travel in this encoding.
pub(crate) fn evenly<'a>(sync: &'a str, wire: &'a str) -> [&'a str; 6] {
    [
        "--sync",
        sync,
        "--scheduler",
        "scheduler-even",
        "--wire",
        wire,
    ]
}

/// Network options of a node that listens on a port, and waits to be connected to.
pub(crate) fn listening_at(port: u16) -> Vec<String> {
    let address = format!("127.0.0.1:{port}");
    ["--no-scouting".into(), "--listen".into(), address].to_vec()
}

/// Workers, and what it takes to lead them.
#[derive(Debug)]
pub(crate) struct Cluster {
    setup: Setup,
    name: String,
    folder: TempDir,
    /// Where the leader listens.
    leader: String,
    pub(crate) workers: Vec<Worker>,
    started: usize,
    _place: Place,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) process: Process,
}

impl Cluster {
    /// Starts so many workers, at addresses that the leader is told.
    pub(crate) fn start(setup: Setup, workers: usize) -> Self {
        let mut cluster = Self::new(setup);
        for _ in 0..workers {
            let port = free_port();
            let network = listening_at(port);
            cluster.start_worker(port, &network);
        }
        cluster.workers.iter_mut().for_each(Worker::wait_ready);
        cluster
    }

    /// Starts a worker for each of these lists of network options.
    pub(crate) fn start_over(setup: Setup, networks: &[Vec<String>]) -> Self {
        let mut cluster = Self::new(setup);
        for network in networks {
            cluster.start_worker(0, network);
        }
        cluster.workers.iter_mut().for_each(Worker::wait_ready);
        cluster
    }

    fn new(setup: Setup) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = Place::take();
        Self {
            setup,
            name: format!("test-{}-{number}", std::process::id()),
            folder: tempfile::tempdir().expect("a folder"),
            leader: format!("127.0.0.1:{}", free_port()),
            workers: Vec::new(),
            started: 0,
            _place: place,
        }
    }

    /// Its name, in which no other cluster here is.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Starts one more worker, which finds the leader.
    pub(crate) fn join(&mut self) -> &mut Worker {
        // Nobody knows it, so it connects to everybody.
        let port = free_port();
        let mut network = listening_at(port);
        for address in self.nodes_addresses() {
            network.extend(["--connect".into(), address]);
        }
        let worker = self.start_worker(port, &network);
        worker.wait_ready();
        worker
    }

    /// As [`join`](Self::join), with more in its configuration file.
    pub(crate) fn join_with(&mut self, config: &'static str) {
        let others = std::mem::replace(&mut self.setup.config, config);
        self.join();
        self.setup.config = others;
    }

    /// Joins the network of a cluster that is being led, to ask questions as `halo policy` does, and stays.
    pub(crate) async fn observe(&self) -> Fabric {
        let node = "observer".parse().expect("a name");
        let fabric = Fabric::open(FabricConfig {
            cluster: self.name.clone(),
            connect: [self.addresses(), vec![self.leader.clone()]].concat(),
            scouting: false,
            ..FabricConfig::new(node)
        });
        let fabric = fabric.await.expect("a network");
        let mut members = fabric.members();
        let all = members.wait_for(|m| m.len() == self.nodes().len());
        tokio::time::timeout(HANG, all)
            .await
            .expect("all nodes come into sight")
            .expect("the network stays open");
        fabric
    }

    fn start_worker(&mut self, port: u16, network: &[String]) -> &mut Worker {
        self.started += 1;
        let name = format!("worker-{}", self.started);
        let arguments = ["node", "--json", "--cluster", &self.name, "--name", &name];
        let mut command = match &self.setup.worker {
            Some(program) => command_of(program, arguments),
            None => halo(arguments),
        };
        command.args(network);
        self.node(&mut command, &name, self.started as u64);
        self.workers.push(Worker {
            process: Process::start(&name, command),
            name,
            port,
        });
        self.workers.last_mut().expect("the one just added")
    }

    /// Starts a worker that has no model but what it was given before under this name, at an address that the leader is told.
    pub(crate) fn start_bare(&mut self, name: &str, options: &[&str]) -> &mut Worker {
        let port = free_port();
        let mut command = halo(["node", "--json", "--cluster", &self.name, "--name", name]);
        command
            .args(listening_at(port))
            .args(["--no-model", "--cache"]);
        command.arg(self.cache(name)).args(options);
        self.common(&mut command, name, 1);
        self.workers.retain(|worker| worker.name != name);
        self.workers.push(Worker {
            process: Process::start(name, command),
            name: name.to_owned(),
            port,
        });
        self.workers.last_mut().expect("the one just added")
    }

    /// Where a worker without a model keeps what it is given.
    pub(crate) fn cache(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}-packages"))
    }

    /// `halo model push` of the cluster's model.
    pub(crate) fn pushing(&self, options: &[&str]) -> Command {
        let mut command = halo(["model", "push", "--json", "--no-scouting"]);
        command.args(["--cluster", &self.name]).args(options);
        for address in self.addresses() {
            command.args(["--connect", &address]);
        }
        command.arg(self.setup.model.folder());
        command
    }

    /// Options of every node with a model.
    fn node(&self, command: &mut Command, name: &str, seed: u64) {
        command.arg("--model").arg(self.setup.model.folder());
        self.common(command, name, seed);
    }

    /// Options of every node.
    fn common(&self, command: &mut Command, name: &str, seed: u64) {
        command.args(["--threads", "1"]);
        command.args(["--memory", &self.memory().to_string()]);
        command.args(["--loss", &self.setup.loss.to_string()]);
        command.args(["--loss-seed", &seed.to_string()]);
        command.arg("--config").arg(self.config(name));
    }

    /// Writes a node's configuration file.
    fn config(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.toml"));
        let text = format!(
            "[sync]\nbound-ms = {}\n\
             [policy]\nattention = 'leader'\nfolder = '{}'\n\
             [policy.limits]\nplace-ms = 5000\nadmit-ms = 500\nscore-ms = 500\n{}\n",
            self.setup.bound_ms,
            self.folder
                .path()
                .join(format!("{name}-policies"))
                .display(),
            self.setup.config
        );
        std::fs::write(&path, text).expect("a configuration file");
        path
    }

    /// Bytes that each node has for neuron groups.
    pub(crate) fn memory(&self) -> u64 {
        let all = self.setup.model.package().all_groups_bytes();
        (all as f64 * self.setup.memory) as u64
    }

    /// Where all nodes listen.
    pub(crate) fn nodes_addresses(&self) -> Vec<String> {
        let mut addresses = self.addresses();
        addresses.push(self.leader.clone());
        addresses
    }

    /// Where the workers listen.
    fn addresses(&self) -> Vec<String> {
        self.workers
            .iter()
            .map(|w| format!("127.0.0.1:{}", w.port))
            .collect()
    }

    /// Has a leader generate so many tokens with all the workers.
    pub(crate) fn lead(&self, tokens: usize, options: &[&str]) -> Leader {
        self.lead_at(LEADER, &self.leader, tokens, options)
    }

    /// As [`lead`](Self::lead), by another name.
    pub(crate) fn lead_as(&self, name: &str, tokens: usize, options: &[&str]) -> Leader {
        let address = format!("127.0.0.1:{}", free_port());
        self.lead_at(name, &address, tokens, options)
    }

    fn lead_at(&self, name: &str, address: &str, tokens: usize, options: &[&str]) -> Leader {
        let mut command = self.leading(name, tokens, options);
        command.args(["--no-scouting", "--listen", address]);
        for worker in self.addresses() {
            command.args(["--connect", &worker]);
        }
        Leader::follow(Process::start(name, command))
    }

    /// As [`lead`](Self::lead), by these network options.
    pub(crate) fn lead_by(&self, network: &[String], tokens: usize, options: &[&str]) -> Leader {
        let mut command = self.leading(LEADER, tokens, options);
        command.args(network);
        Leader::follow(Process::start(LEADER, command))
    }

    /// As [`lead`](Self::lead), by these zenoh endpoints and without a UDP port of its own that workers could connect to.
    pub(crate) fn lead_over(
        &self,
        endpoints: &[String],
        tokens: usize,
        options: &[&str],
    ) -> Leader {
        Leader::follow(self.begin_over(endpoints, tokens, options))
    }

    /// The same, before it is ready.
    pub(crate) fn begin_over(
        &self,
        endpoints: &[String],
        tokens: usize,
        options: &[&str],
    ) -> Process {
        let mut command = self.leading(LEADER, tokens, options);
        command.args([
            "--no-scouting",
            "--listen",
            &format!("tcp/{}?rel=1", self.leader),
        ]);
        for endpoint in endpoints {
            command.args(["--connect", endpoint]);
        }
        Process::start(LEADER, command)
    }

    fn leading(&self, name: &str, tokens: usize, options: &[&str]) -> Command {
        let mut command = halo(["run", "--json", "--cluster", &self.name, "--name", name]);
        command.args(["--workers", &self.workers.len().to_string()]);
        command.args([
            "--patience",
            "60",
            "--ignore-eos",
            "--max-tokens",
            &tokens.to_string(),
        ]);
        self.node(&mut command, name, 0);
        command.args(options).arg(PROMPT);
        command
    }

    /// Has a leader try, and gives what it says at its end.
    pub(crate) fn try_to_lead(&self, options: &[&str]) -> Output {
        let mut command = self.leading(LEADER, 8, options);
        command.args(["--no-scouting", "--listen", &self.leader]);
        for worker in self.addresses() {
            command.args(["--connect", &worker]);
        }
        command.output().expect("the program starts")
    }

    /// Rounds with each worker in which nothing is computed.
    pub(crate) fn ping(&self, options: &[&str]) -> BTreeMap<String, Pinged> {
        let workers = self.workers.len().to_string();
        let mut command = halo(["ping", "--json", "--cluster", &self.name, "--name", LEADER]);
        command.args(["--workers", &workers, "--patience", "60", "--no-scouting"]);
        command.args(["--listen", &self.leader]);
        command.arg("--model").arg(self.setup.model.folder());
        command.arg("--config").arg(self.config(LEADER));
        for address in self.addresses() {
            command.args(["--connect", &address]);
        }
        let output = command.args(options).output().expect("the program starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let pinged: Vec<NodePinged> =
            serde_json::from_slice(&output.stdout).expect("a list of nodes");
        pinged.into_iter().map(|p| (p.node, p.rounds)).collect()
    }

    /// What `halo bench` says of the model on the cluster, from twice so many tokens.
    pub(crate) fn bench(&self, tokens: usize, options: &[&str]) -> String {
        let workers = self.workers.len().to_string();
        let mut command = halo(["bench", "--cluster", &self.name, "--name", LEADER]);
        command.args(["--workers", &workers, "--patience", "60", "--no-scouting"]);
        command.args(["--listen", &self.leader, "--threads", "1"]);
        command.args(["--prompt", "12", "--repeat", "2"]);
        command.args(["--tokens", &tokens.to_string()]);
        command.args(["--loss", &self.setup.loss.to_string()]);
        command.arg("--config").arg(self.config(LEADER));
        for address in self.addresses() {
            command.args(["--connect", &address]);
        }
        command.args(options).arg(self.setup.model.folder());
        let output = command.output().expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What `halo eval --json` says of the model, as the cluster computes it.
    pub(crate) fn eval(&self, arguments: &[&str]) -> Vec<Value> {
        let workers = self.workers.len().to_string();
        let mut command = halo(["eval"]);
        command.args(arguments);
        command.args(["--json", "--cluster", &self.name, "--name", LEADER]);
        command.args([
            "--workers",
            &workers,
            "--no-scouting",
            "--listen",
            &self.leader,
        ]);
        command.args(["--loss", &self.setup.loss.to_string()]);
        command.args(["--memory", &self.memory().to_string()]);
        command.arg("--model").arg(self.setup.model.folder());
        command.arg("--config").arg(self.config(LEADER));
        for address in self.addresses() {
            command.args(["--connect", &address]);
        }
        let output = command.output().expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        let lines = output.stdout.split(|byte| *byte == b'\n');
        let lines = lines.filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect()
    }

    /// What `halo status` says of each node.
    pub(crate) fn status(&self) -> Vec<Value> {
        let output = self.ask(&["status"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    /// What the leader has planned, as `halo status --plan` says.
    pub(crate) fn plan(&self) -> Planned {
        #[derive(Deserialize)]
        struct Led {
            leader: String,
            plan: Planned,
        }
        let output = self.ask(&["status", "--plan"]);
        let mut led: Vec<Led> =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        let led = led.pop().expect("a leader");
        assert_eq!(led.leader, LEADER);
        led.plan
    }

    /// What `halo top` prints where there is no terminal.
    pub(crate) fn top(&self) -> String {
        let output = self.ask_in_words(&["top", "--interval", "1"]);
        String::from_utf8(output.stdout).expect("text")
    }

    /// A command that asks all nodes something.
    fn ask(&self, command: &[&str]) -> Output {
        self.ask_in_words(&[command, &["--json"]].concat())
    }

    fn ask_in_words(&self, command: &[&str]) -> Output {
        let mut all = command.to_vec();
        let config = self.config("observer");
        all.extend(["--no-scouting", "--cluster", &self.name]);
        all.extend([
            "--config",
            config.to_str().expect("a path of plain characters"),
        ]);
        let addresses = self.addresses();
        for address in std::iter::once(&self.leader).chain(&addresses) {
            all.extend(["--connect", address]);
        }
        run(all)
    }

    /// `halo policy …` for this cluster.
    pub(crate) fn policy(&self, arguments: &[&str]) -> Answers {
        let output = self.ask(&[&["policy"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let answers = serde_json::from_str(&text).unwrap_or_else(|e| {
            panic!(
                "halo policy {arguments:?} says {text:?}: {e}\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        Answers {
            code: output.status.code(),
            said: answers,
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Puts a policy in force, which must succeed on every node.
    pub(crate) fn activate(&self, policy: &str, settings: &[&str]) {
        let mut arguments = vec!["activate", policy];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        let answers = self.policy(&arguments);
        let nodes = answers.nodes();
        let told: Vec<&str> = nodes.iter().map(|a| a.node.as_str()).collect();
        assert_eq!(told, self.nodes(), "every node reports\n{}", answers.log);
        for answer in &nodes {
            assert_eq!(answer.rest.get("error"), None, "{answers:?}");
            assert!(policy.contains(answer.rest["active"].as_str().expect("a name")));
        }
        assert_eq!(answers.code, Some(0));
    }

    /// The policies that each node has in force: scheduler and predictor.
    pub(crate) fn in_force(&self) -> BTreeMap<String, [String; 2]> {
        let answers = self.policy(&["list"]);
        assert_eq!(answers.code, Some(0));
        let nodes = answers.nodes();
        let told: Vec<&str> = nodes.iter().map(|a| a.node.as_str()).collect();
        assert_eq!(told, self.nodes(), "every node reports\n{}", answers.log);
        let both = nodes.into_iter().map(|mut answer| {
            let policies = answer.rest.remove("policies").expect("its policies");
            let policies: Vec<PolicyEntry> =
                serde_json::from_value(policies).expect("a list of policies");
            let of = |kind: &str| {
                let active: Vec<_> = policies
                    .iter()
                    .filter(|p| p.active && p.kind.to_string() == kind)
                    .collect();
                assert_eq!(active.len(), 1, "one {kind} is in force: {policies:?}");
                active[0].name.clone()
            };
            (answer.node, [of("scheduler"), of("predictor")])
        });
        both.collect()
    }

    /// The names of the nodes while one leads, in their order.
    fn nodes(&self) -> Vec<&str> {
        std::iter::once(LEADER)
            .chain(self.workers.iter().map(|w| w.name.as_str()))
            .collect()
    }
}

impl Worker {
    pub(crate) fn wait_ready(&mut self) {
        self.wait_for("ready");
    }

    /// Takes its next event, which must be this one.
    pub(crate) fn wait_for(&mut self, event: &str) {
        let next: Option<Value> = self.process.next();
        assert_eq!(
            next.as_ref().map(|next| &next["event"]),
            Some(&Value::from(event)),
            "{} did not come so far: {next:?}",
            self.name
        );
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) code: Option<i32>,
    pub(crate) said: Value,
    /// What it wrote to its standard error.
    log: String,
}

impl Answers {
    /// What each node answered.
    pub(crate) fn nodes(&self) -> Vec<NodeAnswer> {
        serde_json::from_value(self.said.clone())
            .unwrap_or_else(|e| panic!("no list of answers: {}: {e}", self.said))
    }
}

#[derive(Debug, Deserialize)]
struct NodePinged {
    node: String,
    rounds: Pinged,
}

#[derive(Debug, Deserialize)]
pub(crate) struct NodeAnswer {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) rest: serde_json::Map<String, Value>,
}

/// One of the few places for a cluster.
#[derive(Debug)]
struct Place;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Place {
    fn take() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = FREED
            .wait_while(taken, |taken| *taken == CLUSTERS)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}
