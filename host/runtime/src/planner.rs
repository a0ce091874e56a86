//! Keeps a placement in force while nodes come and go, slow down and swap schedulers.
//!
//! Runs beside the generation and never holds it up: a placement is agreed on with every worker and loaded here before the
//! generation is offered it, between two rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use halo_engine::{Engine, FeedForward};
use halo_fabric::{CallError, Fabric, NodeId};
use halo_models::Package;
use halo_policy::{Device, Placement};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::config::Sync;
use crate::error::NodeError;
use crate::messages::{ASSIGN, Assign, PROFILE, Profile};
use crate::plan::Plan;
use crate::plan_slot::{PlanSlot, Prepared};
use crate::policies::Policies;

/// A node that is alive answers a question about itself well within this.
const PROFILE_PATIENCE: Duration = Duration::from_secs(2);

/// Loading groups from an SD card takes its time.
const ASSIGN_PATIENCE: Duration = Duration::from_secs(120);

/// How often a suspected node is asked whether it is back.
const SUSPECT_INTERVAL: Duration = Duration::from_secs(1);

/// Nodes that come up together are planned for together.
const SETTLE: Duration = Duration::from_millis(150);

pub(crate) struct Planner {
    pub(crate) fabric: Fabric,
    pub(crate) engine: Engine,
    pub(crate) package: Package,
    pub(crate) policies: Arc<Policies>,
    pub(crate) sync: Sync,
    pub(crate) own: Profile,
    pub(crate) slot: Arc<PlanSlot>,
    /// Workers to wait for before the first plan.
    pub(crate) minimum: usize,
}

/// What the planner knows of the cluster.
#[derive(Default)]
struct Known {
    alive: BTreeSet<NodeId>,
    profiles: BTreeMap<NodeId, Profile>,
    /// Nodes that are alive by their liveliness token but do not answer. They are asked until they do.
    suspects: BTreeSet<NodeId>,
    /// Nodes that do not take a part, and said why. They are left out until they restart.
    unwilling: BTreeSet<NodeId>,
    /// Profiles that are asked for.
    asked: BTreeSet<NodeId>,
    questions: JoinSet<(NodeId, Result<Profile, CallError>)>,
    current: Option<Arc<Plan>>,
    /// Nodes of all plans so far: a round may be under way on any of the last ones.
    planned: BTreeSet<NodeId>,
    epoch: u32,
}

impl Planner {
    /// Plans until the network closes or `stop` changes.
    pub(crate) async fn run(
        self,
        mut suspicions: mpsc::UnboundedReceiver<NodeId>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut members = self.fabric.members();
        let mut changes = self.policies.changes();
        let mut known = Known {
            alive: members.borrow_and_update().clone(),
            ..Known::default()
        };
        // Even if the placement is the same: the generation has given up a worker and waits for a new epoch.
        let mut anew = false;
        loop {
            self.ask_profiles(&mut known, false);
            if let Err(error) = self.plan(&mut known, std::mem::take(&mut anew)).await {
                return self.slot.end(error.to_string());
            }
            tokio::select! {
                changed = members.changed() => {
                    if changed.is_err() {
                        return self.slot.end("the network is closed".into());
                    }
                    known.alive = members.borrow_and_update().clone();
                    self.tell_gone(&known);
                    tokio::time::sleep(SETTLE).await;
                    known.alive = members.borrow_and_update().clone();
                    known.forget_the_dead();
                }
                suspect = suspicions.recv() => {
                    let Some(suspect) = suspect else { return };
                    known.suspects.insert(suspect);
                    anew = true;
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(Ok((node, answer))) = known.questions.join_next() => self.profiled(&mut known, node, answer),
                () = tokio::time::sleep(SUSPECT_INTERVAL), if !known.suspects.is_empty() => self.ask_profiles(&mut known, true),
                _ = stop.changed() => return,
            }
        }
    }

    /// Tells the generation at once whom not to wait for.
    fn tell_gone(&self, known: &Known) {
        let gone = known
            .planned
            .iter()
            .filter(|d| !known.alive.contains(*d) || known.suspects.contains(*d));
        self.slot.set_gone(gone.cloned().collect());
    }

    /// Makes a new plan if there is reason to, or if it must be made `anew`.
    async fn plan(&self, known: &mut Known, anew: bool) -> Result<(), NodeError> {
        self.tell_gone(known);
        loop {
            let usable = |p: &&Profile| {
                p.serves
                    && p.model == self.package.identity()
                    && !known.suspects.contains(&p.node)
                    && !known.unwilling.contains(&p.node)
            };
            let workers: Vec<&Profile> = known.profiles.values().filter(usable).collect();
            // Once a text is being written, going on beyond the leader's memory is better than not going on.
            if known.current.is_none()
                && (workers.len() < self.minimum || !self.holds_all(&workers))
            {
                return Ok(());
            }
            let devices: Vec<NodeId> = std::iter::once(&self.own.node)
                .chain(workers.iter().map(|p| &p.node))
                .cloned()
                .collect();
            let described = self.describe(&workers);
            let placement = self.place(known, &devices, described).await?;
            let same = known
                .current
                .as_ref()
                .is_some_and(|c| c.devices == devices && c.placement.owners == placement.owners);
            if same && !anew {
                return Ok(());
            }
            known.epoch += 1;
            let (layers, groups) = (self.package.shape().layers, self.package.groups());
            let plan = Arc::new(Plan::new(known.epoch, devices, placement, layers, groups));
            if !self.assign(known, &plan).await {
                self.tell_gone(known);
                continue;
            }
            let (engine, package, own) = (
                self.engine.clone(),
                self.package.clone(),
                plan.groups[0].clone(),
            );
            let feed_forward =
                tokio::task::spawn_blocking(move || FeedForward::load(&engine, &package, &own))
                    .await
                    .map_err(|e| NodeError::Task(e.to_string()))??;
            info!(epoch = plan.epoch, workers = plan.devices.len() - 1, scheduler = %self.policies.scheduler().active().name, "placement ready");
            known.planned.extend(plan.devices.iter().skip(1).cloned());
            known.current = Some(Arc::clone(&plan));
            self.tell_gone(known);
            self.slot.put(Prepared { plan, feed_forward });
            return Ok(());
        }
    }

    /// Whether every group fits somewhere.
    fn holds_all(&self, workers: &[&Profile]) -> bool {
        let nodes = std::iter::once(&self.own).chain(workers.iter().copied());
        let fit: u64 = nodes.map(|p| p.memory / self.package.group_bytes()).sum();
        fit >= (self.package.shape().layers * self.package.groups()) as u64
    }

    /// Asks nodes what they are: those that are new, or those that are suspected.
    fn ask_profiles(&self, known: &mut Known, suspects: bool) {
        let wanted = |n: &&NodeId| {
            if suspects {
                known.suspects.contains(*n)
            } else {
                !known.profiles.contains_key(*n) && !known.suspects.contains(*n)
            }
        };
        let nodes = known
            .alive
            .iter()
            .filter(|n| **n != self.own.node && !known.asked.contains(*n))
            .filter(wanted);
        for node in nodes.cloned().collect::<Vec<_>>() {
            known.asked.insert(node.clone());
            let fabric = self.fabric.clone();
            known.questions.spawn(async move {
                let answer = fabric
                    .call::<_, Profile>(&node, PROFILE, &(), PROFILE_PATIENCE)
                    .await;
                (node, answer)
            });
        }
    }

    fn profiled(&self, known: &mut Known, node: NodeId, answer: Result<Profile, CallError>) {
        known.asked.remove(&node);
        match answer {
            Ok(profile) => {
                if profile.serves && profile.model != self.package.identity() {
                    warn!("{node} has another model, so it cannot help with this one");
                }
                known.suspects.remove(&node);
                known.profiles.insert(node, profile);
            }
            Err(error) => {
                debug!(%node, "no profile: {error}");
                known.suspects.insert(node);
            }
        }
    }

    fn describe(&self, workers: &[&Profile]) -> Vec<Device> {
        let leader = Device {
            name: self.own.node.to_string(),
            leader: true,
            speed: self.own.speed,
            memory: self.own.memory,
            delay_us: 0,
            spread_us: 0,
            loss: 0.0,
        };
        let worker = |profile: &&Profile| {
            // A link that cannot be made has no estimate either; assigning to it will say why.
            let estimate = self
                .fabric
                .link(&profile.node)
                .map(|l| l.estimate())
                .unwrap_or_default();
            Device {
                name: profile.node.to_string(),
                leader: false,
                speed: profile.speed,
                memory: profile.memory,
                delay_us: estimate.round_trip_us.unwrap_or(0.0) as u32,
                spread_us: estimate.spread_us.unwrap_or(0.0) as u32,
                loss: estimate.loss_both_ways() as f32,
            }
        };
        std::iter::once(leader)
            .chain(workers.iter().map(worker))
            .collect()
    }

    async fn place(
        &self,
        known: &Known,
        devices: &[NodeId],
        described: Vec<Device>,
    ) -> Result<Placement, NodeError> {
        let current = known
            .current
            .as_ref()
            .filter(|c| c.devices == devices)
            .map(|c| c.placement.clone());
        let policies = Arc::clone(&self.policies);
        let place = move || {
            policies
                .scheduler()
                .place(policies.model(), &described, current.as_ref())
        };
        let answer = tokio::task::spawn_blocking(place)
            .await
            .map_err(|e| NodeError::Task(e.to_string()))?;
        if let Some(fault) = answer.fault {
            warn!("the built-in rule made this placement: {fault}");
        }
        Ok(answer.value)
    }

    /// Has every worker of a plan load its groups. False if one would not; it is then known as suspected or unwilling.
    async fn assign(&self, known: &mut Known, plan: &Plan) -> bool {
        let mut wishes = JoinSet::new();
        for (device, node) in plan.devices.iter().cloned().enumerate().skip(1) {
            let wish = Assign {
                leader: self.own.node.clone(),
                epoch: plan.epoch,
                model: self.package.identity().to_owned(),
                groups: plan.groups[device].clone(),
                standbys: plan.standbys(device),
                activation: self.sync.activation,
                partial: self.sync.partial,
            };
            let fabric = self.fabric.clone();
            wishes.spawn(async move {
                let answer = fabric
                    .call::<_, ()>(&node, ASSIGN, &wish, ASSIGN_PATIENCE)
                    .await;
                (node, answer)
            });
        }
        let mut agreed = true;
        while let Some(Ok((node, answer))) = wishes.join_next().await {
            if let Err(error) = answer {
                warn!("{node} does not take its part: {error}");
                let refused = matches!(error, CallError::Refused { .. });
                (if refused {
                    &mut known.unwilling
                } else {
                    &mut known.suspects
                })
                .insert(node);
                agreed = false;
            }
        }
        agreed
    }
}

impl Known {
    fn forget_the_dead(&mut self) {
        let alive = &self.alive;
        self.profiles.retain(|node, _| alive.contains(node));
        self.suspects.retain(|node| alive.contains(node));
        self.unwilling.retain(|node| alive.contains(node));
    }
}
