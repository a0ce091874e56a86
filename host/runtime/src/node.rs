//! One host process: its engine, its place on the network, what it computes for others, and what it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halo_engine::{Engine, EngineOptions};
use halo_fabric::{
    ASK_PARTIAL, CallError, Fabric, FabricConfig, Faults, Kind as PacketKind, NodeId, Receiver,
    Service,
};
use halo_models::Package;
use tokio::sync::watch;
use tracing::warn;

use crate::assignments::Assignments;
use crate::chosen::Chosen;
use crate::config::{Config, SyncMode};
use crate::error::{GenerationError, NodeError};
use crate::generating::Account;
use crate::generator::Generator;
use crate::inbox::{LeaderInbox, LeaderOutbox, inbox, leader_inbox};
use crate::leader::Leader;
use crate::messages::Profile;
use crate::operations::Operations;
use crate::packages::{self, Giver, Taker};
use crate::ping::{Ping, Pinged};
use crate::plan::Plan;
use crate::plan_slot::PlanSlot;
use crate::planned::Planned;
use crate::planner::Planner;
use crate::policies::Policies;
use crate::{cluster, memory, rollout, speed, timeline, worker};

/// Share of the available memory that feed-forward groups may take if the configuration does not say.
const MEMORY_SHARE: f64 = 0.5;

/// Between two looks at who is there.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A running node.
pub struct Node {
    config: Config,
    engine: Engine,
    package: Package,
    policies: Arc<Policies>,
    fabric: Fabric,
    profile: Profile,
    /// Where packets for the generation that this node leads go, while it leads one.
    leading: Arc<Mutex<Option<LeaderOutbox>>>,
    taker: Taker,
    /// What it has planned, if it leads.
    planned: Arc<Mutex<Option<Planned>>>,
    /// Whom it may count on in that.
    chosen: Chosen,
    /// What it generates, if it leads.
    account: Account,
    stop: watch::Sender<bool>,
    _receiver: Receiver,
    _services: [Service; 2],
}

impl Node {
    /// Starts a node and joins the cluster. One that `serves` computes for others; one that does not only leads.
    ///
    /// # Errors
    ///
    /// ONNX Runtime, a policy or the network cannot be started.
    pub async fn start(
        config: &Config,
        package: &Package,
        serves: bool,
    ) -> Result<Self, NodeError> {
        let engine = Engine::start(&EngineOptions {
            library: config.onnxruntime.clone(),
            threads: config.threads,
            slowdown: config.testing.slowdown,
            ..EngineOptions::default()
        })?;
        let policies = Arc::new(Policies::new(&config.policy, package)?);
        let fabric = Fabric::open(fabric_config(config)?).await?;
        let profile = {
            let (engine, package) = (engine.clone(), package.clone());
            let speed = tokio::task::spawn_blocking(move || speed::measure(&engine, &package))
                .await
                .map_err(|e| NodeError::Task(e.to_string()))??;
            Profile {
                speed,
                ..profile(config, fabric.node().clone(), serves)
            }
        };
        let profile = Profile {
            model: package.identity().to_owned(),
            threads: engine.threads(),
            ..profile
        };
        let assignments = Assignments::new(engine.clone(), package.clone(), profile.memory);
        let leading = Arc::new(Mutex::new(None::<LeaderOutbox>));
        let receiver = receive(&fabric, &assignments, package, serves, &leading)?;
        let cache = packages::cache(&config.packages);
        if let Some(cache) = cache.as_ref().filter(|_| serves)
            && let Err(error) = cache.note_served(package)
        {
            warn!("after a restart this node will not know which package it served: {error}");
        }
        let giver = Giver::new(fabric.clone(), package.clone(), None);
        let taker = Taker::new(fabric.clone(), cache.filter(|_| serves), Some(package));
        let giving = giver.serve().await?;
        let planned = Arc::default();
        let account = Account::default();
        let operations = Operations {
            fabric: fabric.clone(),
            assignments: assignments.clone(),
            giver,
            taker: taker.clone(),
            policies: Arc::clone(&policies),
            profile: profile.clone(),
            planned: Arc::clone(&planned),
            account: account.clone(),
        };
        let service = operations.serve().await?;
        let (stop, _) = watch::channel(false);
        forget_the_dead(&fabric, assignments, stop.subscribe());
        fabric.announce().await?;
        rollout::catch_up(&fabric, &policies).await;
        tokio::spawn(rollout::follow(
            fabric.clone(),
            Arc::clone(&policies),
            stop.subscribe(),
        ));
        Ok(Self {
            config: config.clone(),
            engine,
            package: package.clone(),
            policies,
            fabric,
            profile,
            leading,
            taker,
            planned,
            chosen: Chosen::default(),
            account,
            stop,
            _receiver: receiver,
            _services: [service, giving],
        })
    }

    /// What the node is.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The package that another node gave it last, and every further one. Nothing before the first.
    pub fn given(&self) -> watch::Receiver<Option<Package>> {
        self.taker.taken()
    }

    /// Its place on the network.
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Its schedulers and predictors.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Leads: finds at least `workers` workers, places the model's groups, and is ready to generate. Also gives the first plan.
    ///
    /// # Errors
    ///
    /// Too few workers within `patience`, or the model cannot be loaded.
    pub async fn lead(
        &self,
        workers: usize,
        patience: Duration,
    ) -> Result<(Generator, Arc<Plan>), NodeError> {
        let (slot, suspicions) = PlanSlot::new();
        let planner = Planner {
            fabric: self.fabric.clone(),
            engine: self.engine.clone(),
            package: self.package.clone(),
            policies: Arc::clone(&self.policies),
            sync: self.config.sync.clone(),
            testing: self.config.testing.clone(),
            attention: self.config.policy.attention,
            own: self.profile.clone(),
            slot: Arc::clone(&slot),
            planned: Arc::clone(&self.planned),
            minimum: workers.max(1),
        };
        tokio::spawn(planner.run(suspicions, self.chosen.follow(), self.stop.subscribe()));
        let waiting = Arc::clone(&slot);
        let first = tokio::task::spawn_blocking(move || waiting.wait(patience))
            .await
            .map_err(|e| NodeError::Task(e.to_string()))?;
        let first = match first {
            Ok(first) => first,
            Err(_) => {
                return Err(match slot.ended() {
                    Some(why) => GenerationError::Placement(why).into(),
                    None => self.no_workers(workers.max(1), patience).await,
                });
            }
        };
        let plan = Arc::clone(&first.plan);
        let inbox = self.inbox();
        let (fabric, policies, sync) = (
            self.fabric.clone(),
            Arc::clone(&self.policies),
            self.config.sync.clone(),
        );
        let (engine, package) = (self.engine.clone(), self.package.clone());
        let account = self.account.clone();
        let generator = tokio::task::spawn_blocking(move || {
            let leader = Leader::new(fabric, &package, policies, sync, slot, inbox, first)?;
            Generator::new(&engine, &package, Box::new(leader), account)
        });
        Ok((
            generator
                .await
                .map_err(|e| NodeError::Task(e.to_string()))??,
            plan,
        ))
    }

    /// Has what this node leads be computed by these workers and no others from now on, and gives the placement once there is one. The
    /// generation is on it with its next round. A scheduler may still leave everything with the leader.
    ///
    /// # Errors
    ///
    /// There is none within `patience`: this node does not lead, or a worker is not there or takes no part.
    pub async fn count_on(
        &self,
        workers: BTreeSet<NodeId>,
        patience: Duration,
    ) -> Result<Planned, NodeError> {
        self.chosen.choose(workers, &self.planned, patience).await
    }

    /// What this node has planned last, if it leads.
    pub fn planned(&self) -> Option<Planned> {
        let planned = self.planned.lock();
        planned.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where packets for what this node leads arrive from now on.
    fn inbox(&self) -> LeaderInbox {
        let prompt = self.config.sync.mode != SyncMode::LikeTcp;
        let (outbox, inbox) = leader_inbox(prompt);
        *self.leading.lock().unwrap_or_else(PoisonError::into_inner) = Some(outbox);
        inbox
    }

    /// The workers with this node's model, once there are at least `wanted`.
    ///
    /// # Errors
    ///
    /// There are fewer within `patience`.
    pub async fn workers(
        &self,
        wanted: usize,
        patience: Duration,
    ) -> Result<Vec<NodeId>, NodeError> {
        let end = Instant::now() + patience;
        loop {
            let found = cluster::profiles(&self.fabric).await;
            let mut found: Vec<Profile> = found.into_values().filter_map(Result::ok).collect();
            found.retain(|p| p.serves && p.model == self.profile.model);
            if let Some(why) = found.iter().find_map(|p| p.misfit(&self.profile)) {
                return Err(NodeError::MixedTransports(why));
            }
            if found.len() >= wanted {
                return Ok(found.into_iter().map(|p| p.node).collect());
            }
            if Instant::now() >= end {
                return Err(self.no_workers(wanted, patience).await);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Measures `rounds` rounds of `rows` rows with a worker that computes nothing in them. Each packet is sent `copies` times.
    ///
    /// # Errors
    ///
    /// The worker does not agree.
    pub async fn ping(
        &self,
        worker: &NodeId,
        rounds: usize,
        rows: usize,
        copies: u8,
    ) -> Result<Pinged, NodeError> {
        let inbox = self.inbox();
        let ping = Ping::prepare(
            self.fabric.clone(),
            &self.package,
            self.config.sync.clone(),
            inbox,
            worker.clone(),
            rows,
        );
        let ping = ping.await?;
        tokio::task::spawn_blocking(move || ping.run(rounds, copies))
            .await
            .map_err(|e| NodeError::Task(e.to_string()))
    }

    /// Begins to record what this node and the cluster's workers do. Gives the workers that do not record, and why.
    pub async fn record(&self) -> BTreeMap<NodeId, CallError> {
        timeline::begin(&self.fabric, self.recorded()).await
    }

    /// Ends recording, and gives what every node did, by this node's clock.
    pub async fn recording(&self) -> BTreeMap<NodeId, Vec<timeline::Span>> {
        timeline::end(&self.fabric, self.recorded()).await
    }

    /// Whose recording is wanted.
    fn recorded(&self) -> BTreeSet<NodeId> {
        let mut others = self.fabric.members().borrow().clone();
        others.remove(self.fabric.node());
        others
    }

    async fn no_workers(&self, wanted: usize, patience: Duration) -> NodeError {
        let found = cluster::profiles(&self.fabric).await;
        let helpers = || {
            let answered = found.values().filter_map(|p| p.as_ref().ok());
            answered.filter(|p| p.serves && p.model == self.profile.model)
        };
        for Profile { node, .. } in helpers() {
            if !self.fabric.hears(node, Duration::ZERO).await {
                let node = node.clone();
                return CallError::Unheard { node }.into();
            }
        }
        if helpers().count() >= wanted {
            return NodeError::ClusterTooSmall {
                cluster: self.config.network.cluster.clone(),
                workers: helpers().count(),
                needed: self.package.all_groups_bytes(),
                memory: helpers().fold(self.profile.memory, |sum, p| sum.saturating_add(p.memory)),
            };
        }
        NodeError::NoWorkers {
            wanted,
            cluster: self.config.network.cluster.clone(),
            seconds: patience.as_secs(),
            found: cluster::summary(&found, &self.profile),
            advice: cluster::advice(&self.config.network),
        }
    }

    /// Leaves the cluster.
    pub async fn close(self) {
        // Nobody listening is as good as everybody having stopped.
        let _ = self.stop.send(true);
        self.fabric.close().await;
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// The network's configuration from the node's.
///
/// # Errors
///
/// The node's name cannot be one.
pub fn fabric_config(config: &Config) -> Result<FabricConfig, NodeError> {
    let name = config.name.clone().unwrap_or_else(cluster::host_name);
    let network = &config.network;
    Ok(FabricConfig {
        cluster: network.cluster.clone(),
        node: name
            .parse::<NodeId>()
            .map_err(halo_fabric::FabricError::from)?,
        mode: network.mode,
        listen: network.listen.clone(),
        connect: network.connect.clone(),
        scouting: network.scouting,
        tensors: config.testing.transport,
        faults: config.testing.loss.map(|loss| Faults {
            loss,
            seed: config.testing.seed,
        }),
    })
}

pub(crate) fn profile(config: &Config, node: NodeId, serves: bool) -> Profile {
    let memory = config
        .memory
        .or_else(|| Some((memory::available()? as f64 * MEMORY_SHARE) as u64));
    Profile {
        node,
        version: env!("CARGO_PKG_VERSION").into(),
        architecture: std::env::consts::ARCH.into(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: 0,
        serves,
        model: String::new(),
        speed: 0.0,
        memory: memory.unwrap_or(u64::MAX),
        transport: config.testing.transport,
        temperature: None,
    }
}

/// Directs packets to the worker's thread and to the generation's.
fn receive(
    fabric: &Fabric,
    assignments: &Assignments,
    package: &Package,
    serves: bool,
    leading: &Arc<Mutex<Option<LeaderOutbox>>>,
) -> Result<Receiver, NodeError> {
    let work = if serves {
        let (outbox, inbox) = inbox();
        let (fabric, assignments, width) =
            (fabric.clone(), assignments.clone(), package.shape().width);
        std::thread::Builder::new()
            .name("halo-worker".into())
            .spawn(move || worker::serve(&fabric, &assignments, width, &inbox))
            .map_err(|e| NodeError::Task(e.to_string()))?;
        Some(outbox)
    } else {
        None
    };
    let leading = Arc::clone(leading);
    Ok(fabric.receive(move |from, packet| {
        let for_worker = match packet.header.kind {
            PacketKind::Activation => true,
            PacketKind::Ask => packet.header.flags == ASK_PARTIAL,
            PacketKind::Partial => false,
            PacketKind::Ping | PacketKind::Pong => return,
        };
        if for_worker {
            if let Some(work) = &work {
                work.push(from, &packet);
            }
        } else {
            // Answering may take a while, and others have packets too.
            let lock = || leading.lock().unwrap_or_else(PoisonError::into_inner);
            let outbox = lock().clone();
            if outbox.is_some_and(|outbox| !outbox.push(from, &packet)) {
                *lock() = None;
            }
        }
    })?)
}

/// How long to keep what was loaded for a leader that is out of sight: it may be back, and go on where it was.
const KEPT: Duration = Duration::from_secs(15);

/// Frees what was loaded for leaders that have left.
fn forget_the_dead(fabric: &Fabric, assignments: Assignments, mut stop: watch::Receiver<bool>) {
    let members = fabric.members();
    tokio::spawn(async move {
        let mut before = members.borrow().clone();
        while tokio::time::timeout(KEPT, stop.changed()).await.is_err() {
            let alive = members.borrow().clone();
            let kept = |leader: &NodeId| alive.contains(leader) || before.contains(leader);
            if assignments.retain(kept) {
                // It ends soon, whoever waits for it.
                tokio::task::spawn_blocking(memory::freed);
            }
            before = alive;
        }
    });
}
