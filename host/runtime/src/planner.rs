//! Keeps a placement in force while nodes come and go, slow down and swap schedulers.
//!
//! Runs beside the generation and never holds it up: a placement is agreed on with every worker and loaded here before the
//! generation is offered it, between two rounds. Nor does it stop listening meanwhile: who is gone is told at once, and an
//! attempt at a placement that counts on somebody who is gone is given up.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use halo_engine::Engine;
use halo_fabric::{CallError, Fabric, NodeId};
use halo_models::Package;
use halo_policy::Device;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::attempt::{Outcome, Request};
use crate::config::Sync;
use crate::error::NodeError;
use crate::messages::{PROFILE, Profile};
use crate::plan::Plan;
use crate::plan_slot::{PlanSlot, Prepared};
use crate::policies::Policies;

/// A node that is alive answers a question about itself well within this.
const PROFILE_PATIENCE: Duration = Duration::from_secs(2);

/// How often a suspected node is asked whether it is back.
const SUSPECT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a node that does not take its part is left out: at first, and at most.
const SHORTEST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(300);

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
    /// Nodes that did not take their part, and said why: from when on they are offered one again, and how long that was.
    unwilling: BTreeMap<NodeId, (Instant, Duration)>,
    /// When the first of them is.
    offer: Option<Instant>,
    /// Profiles that are asked for.
    asked: BTreeSet<NodeId>,
    questions: JoinSet<(NodeId, Result<Profile, CallError>)>,
    current: Option<Arc<Plan>>,
    /// The generation has given up a worker of the current plan, and needs a new epoch even if the worker is back.
    anew: bool,
    /// Nodes of all plans so far: a round may be under way on any of the last ones.
    planned: BTreeSet<NodeId>,
    epoch: u32,
}

/// A placement in the making.
struct Attempt<'a> {
    devices: Vec<NodeId>,
    work: Pin<Box<dyn Future<Output = Result<Outcome, NodeError>> + Send + 'a>>,
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
        let mut attempt: Option<Attempt<'_>> = None;
        // When to look whether there is reason for another placement.
        let mut due: Option<Instant> = None;
        loop {
            self.tell_gone(&mut known);
            self.ask_profiles(&mut known, false);
            if attempt.take_if(|a| known.lacks(&a.devices)).is_some() {
                due.get_or_insert_with(Instant::now);
            }
            let idle = attempt.is_none();
            tokio::select! {
                changed = members.changed() => {
                    if changed.is_err() {
                        return self.slot.end("the network is closed".into());
                    }
                    known.alive = members.borrow_and_update().clone();
                    known.forget_the_dead();
                    due.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                suspect = suspicions.recv() => {
                    let Some(suspect) = suspect else { return };
                    known.suspects.insert(suspect);
                    known.anew = true;
                    due.get_or_insert_with(Instant::now);
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    due.get_or_insert_with(Instant::now);
                }
                Some(Ok((node, answer))) = known.questions.join_next() => {
                    self.profiled(&mut known, node, answer);
                    due.get_or_insert_with(Instant::now);
                }
                () = tokio::time::sleep(SUSPECT_INTERVAL), if !known.suspects.is_empty() => self.ask_profiles(&mut known, true),
                () = tokio::time::sleep_until(known.offer.unwrap_or_else(Instant::now)), if known.offer.is_some() => {
                    known.plan_offer();
                    due.get_or_insert_with(Instant::now);
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if idle && due.is_some() => {
                    due = None;
                    attempt = self.begin(&mut known);
                }
                outcome = async { Some(attempt.as_mut()?.work.as_mut().await) }, if !idle => {
                    attempt = None;
                    match outcome {
                        Some(Ok(outcome)) => self.take(&mut known, &mut due, outcome),
                        Some(Err(error)) => return self.slot.end(error.to_string()),
                        None => {}
                    }
                }
                _ = stop.changed() => return,
            }
        }
    }

    /// Tells the generation at once whom not to wait for.
    fn tell_gone(&self, known: &mut Known) {
        let gone = |d: &&NodeId| !known.alive.contains(*d) || known.suspects.contains(*d);
        let gone: BTreeSet<NodeId> = known.planned.iter().filter(gone).cloned().collect();
        known.anew |= known
            .current
            .as_ref()
            .is_some_and(|plan| plan.devices.iter().any(|d| gone.contains(d)));
        self.slot.set_gone(gone);
    }

    /// Begins an attempt at a placement with everybody who can help, if those are enough.
    fn begin(&self, known: &mut Known) -> Option<Attempt<'_>> {
        let usable =
            |p: &&Profile| p.serves && p.model == self.package.identity() && !known.is_out(&p.node);
        let workers: Vec<&Profile> = known.profiles.values().filter(usable).collect();
        // Once a text is being written, going on beyond the leader's memory is better than not going on.
        if known.current.is_none() && (workers.len() < self.minimum || !self.holds_all(&workers)) {
            return None;
        }
        let nodes = workers.iter().map(|p| &p.node);
        let devices: Vec<NodeId> = std::iter::once(&self.own.node)
            .chain(nodes)
            .cloned()
            .collect();
        let described = self.describe(&workers);
        let current = known.current.clone();
        known.epoch += 1;
        let request = Request {
            epoch: known.epoch,
            devices: devices.clone(),
            described,
            anew: known.anew,
            keep: current
                .iter()
                .map(|c| c.epoch)
                .chain(self.slot.in_force())
                .collect(),
            current,
        };
        let work = Box::pin(self.attempt(request));
        Some(Attempt { devices, work })
    }

    /// Takes in what came of an attempt.
    fn take(&self, known: &mut Known, due: &mut Option<Instant>, outcome: Outcome) {
        match outcome {
            Outcome::Unchanged => {}
            Outcome::Ready(prepared) => self.put(known, prepared),
            Outcome::Declined(node, error) => {
                warn!("{node} does not take its part: {error}");
                if matches!(error, CallError::Refused { .. }) {
                    known.unwilling(node);
                } else {
                    known.suspects.insert(node);
                }
                due.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Offers the generation a placement.
    fn put(&self, known: &mut Known, prepared: Prepared) {
        let plan = &prepared.plan;
        info!(epoch = plan.epoch, workers = plan.devices.len() - 1, scheduler = %self.policies.scheduler().active().name, "placement ready");
        known
            .unwilling
            .retain(|node, _| !plan.devices.contains(node));
        known.planned.extend(plan.devices.iter().skip(1).cloned());
        known.current = Some(Arc::clone(plan));
        known.anew = false;
        self.slot.put(prepared);
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
                let other = !profile.model.is_empty() && profile.model != self.package.identity();
                if profile.serves && other {
                    warn!("{node} has another model, so it cannot help with this one");
                } else if profile.serves && profile.architecture != self.own.architecture {
                    info!(
                        "{node} has another kind of processor ({}, and this is {}): it rounds in another way",
                        profile.architecture, self.own.architecture
                    );
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
                delay_us: estimate.shortest_us.unwrap_or(0.0) as u32,
                spread_us: estimate.spread_us.unwrap_or(0.0) as u32,
                loss: estimate.loss_both_ways() as f32,
            }
        };
        std::iter::once(leader)
            .chain(workers.iter().map(worker))
            .collect()
    }
}

impl Known {
    /// Whether a node cannot have a part in a placement.
    fn is_out(&self, node: &NodeId) -> bool {
        !self.alive.contains(node)
            || self.suspects.contains(node)
            || self
                .unwilling
                .get(node)
                .is_some_and(|(until, _)| *until > Instant::now())
    }

    /// A node does not take its part now. It may later: what other leaders hold may be free then.
    fn unwilling(&mut self, node: NodeId) {
        let entry = self.unwilling.entry(node);
        let wait = match &entry {
            Entry::Occupied(entry) => (2 * entry.get().1).min(LONGEST_REST),
            Entry::Vacant(_) => SHORTEST_REST,
        };
        entry.insert_entry((Instant::now() + wait, wait));
        self.plan_offer();
    }

    fn plan_offer(&mut self) {
        let now = Instant::now();
        let times = self.unwilling.values().map(|(until, _)| *until);
        self.offer = times.filter(|until| *until > now).min();
    }

    /// Whether any of a placement's workers is out. Of `devices` the first is this node.
    fn lacks(&self, devices: &[NodeId]) -> bool {
        devices.iter().skip(1).any(|d| self.is_out(d))
    }

    fn forget_the_dead(&mut self) {
        let alive = &self.alive;
        self.profiles.retain(|node, _| alive.contains(node));
        self.suspects.retain(|node| alive.contains(node));
        self.unwilling.retain(|node, _| alive.contains(node));
    }
}
