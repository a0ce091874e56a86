//! Keeps a placement in force while nodes come and go, slow down and swap schedulers.
//!
//! Runs beside the generation and never holds it up: a placement is agreed on with every worker and loaded here before the
//! generation is offered it, between two rounds. Nor does it stop listening meanwhile: who is gone is told at once, and an
//! attempt at a placement that counts on somebody who is gone is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halo_engine::Engine;
use halo_fabric::{CallError, Estimate, Fabric, NodeId, Transport};
use halo_models::Package;
use halo_policy::Device;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use crate::attempt::{Outcome, Request};
use crate::cluster;
use crate::config::{AttentionPlace, Sync, SyncMode, Testing};
use crate::error::NodeError;
use crate::heads;
use crate::known::Known;
use crate::messages::{PACE, PROFILE, Profile};
use crate::pace::Pace;
use crate::plan::Plan;
use crate::plan_slot::{PlanSlot, Prepared};
use crate::planned::Planned;
use crate::policies::Policies;
use crate::trial::Trial;
use crate::watch::Seen;

/// A node that is alive answers a question about itself well within this.
const PROFILE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a new node's link for packets may take: at 20 % loss each way, a handshake over UDP fails six times in ten.
const HEARD_PATIENCE: Duration = Duration::from_secs(10);

/// How often suspected nodes are asked whether they are back, and, while tokens flow, whether the others are what they were.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Nodes that come up together are planned for together.
const SETTLE: Duration = Duration::from_millis(150);

pub(crate) struct Planner {
    pub(crate) fabric: Fabric,
    pub(crate) engine: Engine,
    pub(crate) package: Package,
    pub(crate) policies: Arc<Policies>,
    pub(crate) sync: Sync,
    pub(crate) testing: Testing,
    pub(crate) attention: AttentionPlace,
    pub(crate) own: Profile,
    pub(crate) slot: Arc<PlanSlot>,
    /// What is planned, for those who ask.
    pub(crate) planned: Arc<Mutex<Option<Planned>>>,
    /// Workers to wait for before the first plan.
    pub(crate) minimum: usize,
}

/// A placement in the making.
struct Attempt<'a> {
    devices: Vec<NodeId>,
    /// If it is made because devices have changed.
    trial: Option<Trial>,
    work: Pin<Box<dyn Future<Output = Result<Outcome, NodeError>> + Send + 'a>>,
}

impl Planner {
    /// Plans until the network closes or `stop` changes.
    pub(crate) async fn run(
        self,
        mut suspicions: mpsc::UnboundedReceiver<NodeId>,
        mut chosen: watch::Receiver<Option<BTreeSet<NodeId>>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut members = self.fabric.members();
        let mut changes = self.policies.changes();
        let mut known = Known {
            alive: members.borrow_and_update().clone(),
            chosen: chosen.borrow_and_update().clone(),
            ..Known::default()
        };
        let mut attempt: Option<Attempt<'_>> = None;
        // When to look whether there is reason for another placement.
        let mut due: Option<Instant> = None;
        let mut seconds = tokio::time::interval(LOOK_INTERVAL);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                    known.forget_the_dead(&self.own.node);
                    due.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                changed = chosen.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    known.chosen.clone_from(&chosen.borrow_and_update());
                    due.get_or_insert_with(Instant::now);
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
                _ = seconds.tick() => {
                    self.ask_profiles(&mut known, true);
                    self.look(&mut known);
                }
                Some(Ok(paces)) = known.looks.join_next() => {
                    let changed = self.has_changed(&mut known, &paces, !idle);
                    if self.was_for_the_worse(&mut known) {
                        known.calm.regret(Instant::now());
                        due.get_or_insert_with(Instant::now);
                    } else if changed {
                        known.calm.disturb(Instant::now());
                    }
                }
                () = tokio::time::sleep_until(known.calm.due().unwrap_or_else(Instant::now)), if known.calm.due().is_some() => {
                    known.calm.follow();
                    known.following = due.is_none() && idle;
                    due.get_or_insert_with(Instant::now);
                }
                () = tokio::time::sleep_until(known.offer.unwrap_or_else(Instant::now)), if known.offer.is_some() => {
                    known.plan_offer();
                    due.get_or_insert_with(Instant::now);
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if idle && due.is_some() => {
                    due = None;
                    attempt = self.begin(&mut known);
                }
                outcome = async { Some(attempt.as_mut()?.work.as_mut().await) }, if !idle => {
                    let trial = attempt.take().and_then(|attempt| attempt.trial);
                    match outcome {
                        Some(Ok(outcome)) => self.take(&mut known, &mut due, outcome, trial),
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
        let usable = |p: &&Profile| {
            let fits = p.serves && p.model == self.package.identity();
            fits && p.misfit(&self.own).is_none() && !known.is_out(&p.node)
        };
        let workers: Vec<Profile> = known.profiles.values().filter(usable).cloned().collect();
        // Once a text is being written, going on beyond the leader's memory is better than not going on.
        if known.current.is_none() && (workers.len() < self.minimum || !self.holds_all(&workers)) {
            return None;
        }
        let nodes = workers.iter().map(|p| &p.node);
        let devices: Vec<NodeId> = std::iter::once(&self.own.node)
            .chain(nodes)
            .cloned()
            .collect();
        let described = self.describe(known, &workers);
        known.described.clone_from(&described);
        let current = known.current.clone();
        let comparable = |plan: &Arc<Plan>| plan.devices == devices && !known.anew;
        let back = known.back.as_ref().filter(|plan| comparable(plan)).cloned();
        let following = known.following && back.is_none();
        let trial = current
            .as_ref()
            .filter(|plan| following && comparable(plan));
        let now = Instant::now().into_std();
        let trial = trial.and_then(|plan| Trial::begin(plan, &self.slot.passes, now));
        (known.back, known.following) = (None, false);
        known.epoch += 1;
        known.unsettled = true;
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
            back,
        };
        let work = Box::pin(self.attempt(request));
        Some(Attempt {
            devices,
            trial,
            work,
        })
    }

    /// Takes in what came of an attempt.
    fn take(
        &self,
        known: &mut Known,
        due: &mut Option<Instant>,
        outcome: Outcome,
        trial: Option<Trial>,
    ) {
        match outcome {
            Outcome::Unchanged => self.explain(known),
            Outcome::Ready(prepared) => {
                self.put(known, *prepared);
                known.trial = trial;
                self.explain(known);
            }
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
        let token_ms = plan.placement.token_us / 1000;
        info!(epoch = plan.epoch, workers = plan.devices.len() - 1, token_ms, scheduler = %self.policies.scheduler().active().name, "placement ready");
        known
            .unwilling
            .retain(|node, _| !plan.devices.contains(node));
        known.planned.extend(plan.devices.iter().skip(1).cloned());
        known.current = Some(Arc::clone(plan));
        known.anew = false;
        self.slot.put(prepared);
    }

    /// Leaves an account of the placement for those who ask.
    fn explain(&self, known: &Known) {
        let Some(plan) = &known.current else { return };
        let scheduler = self.policies.scheduler().active().name;
        let shape = self.package.shape();
        let heads = plan.head_counts(&plan.devices, shape.kv_heads);
        let planned = Planned::new(
            plan,
            &known.described,
            self.policies.model(),
            scheduler,
            &heads.unwrap_or_default(),
            heads::bytes(&self.package, shape.layers),
        );
        for device in &planned.devices {
            debug!(
                node = %device.node, groups = device.groups, heads = device.heads, speed = device.speed,
                delay_us = device.delay_us, spread_us = device.spread_us, loss = device.loss, "placed"
            );
        }
        let mut slot = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(planned);
    }

    /// Whether every group fits somewhere.
    fn holds_all(&self, workers: &[Profile]) -> bool {
        let nodes = std::iter::once(&self.own).chain(workers);
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
                let answer = if fabric.hears(&node, HEARD_PATIENCE).await {
                    fabric.call(&node, PROFILE, &(), PROFILE_PATIENCE).await
                } else {
                    Err(CallError::Unheard { node: node.clone() })
                };
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
                let misfit = profile.misfit(&self.own);
                if let Some(why) = misfit.filter(|_| profile.serves && !other) {
                    warn!("{why}");
                    // A text that is being written goes on without it; one that has not begun may as well be told.
                    if known.current.is_none() {
                        self.slot.end(why);
                    }
                }
                known.suspects.remove(&node);
                known.profiles.insert(node, profile);
            }
            Err(error) => {
                // Once: a suspect is asked again and again.
                if known.suspects.insert(node) && matches!(error, CallError::Unheard { .. }) {
                    warn!("{error}");
                } else {
                    debug!("no profile: {error}");
                }
            }
        }
    }

    fn describe(&self, known: &mut Known, workers: &[Profile]) -> Vec<Device> {
        let leader = known.watch.device(&self.own, None);
        let workers = workers.iter().map(|profile| {
            let estimate = self.estimate(&profile.node);
            known.watch.device(profile, Some(&estimate))
        });
        std::iter::once(leader).chain(workers).collect()
    }

    /// Of the way to a node. A link that cannot be made has none; assigning to it will say why.
    fn estimate(&self, node: &NodeId) -> Estimate {
        let link = self.fabric.link(node);
        link.map(|link| link.estimate()).unwrap_or_default()
    }

    /// Asks the workers how fast they compute, if there were rounds since the last look.
    ///
    /// Not when everything is waited for: then the text must not depend on how fast anybody is.
    fn look(&self, known: &mut Known) {
        let rounds = self.slot.paces.of(&self.own.node).rounds;
        let relaxed =
            self.sync.mode == SyncMode::Relaxed && self.fabric.config().tensors == Transport::Udp;
        let Some(plan) = known
            .current
            .as_ref()
            .filter(|_| relaxed && rounds != known.looked)
        else {
            return;
        };
        known.looked = rounds;
        let nodes = plan.devices.iter().skip(1).cloned().collect();
        let (fabric, own) = (self.fabric.clone(), self.own.node.clone());
        known
            .looks
            .spawn(async move { cluster::ask(&fabric, nodes, PACE, &own, LOOK_INTERVAL).await });
    }

    /// Whether the current placement was made because devices seemed to have changed, and tokens have come more slowly since.
    fn was_for_the_worse(&self, known: &mut Known) -> bool {
        let (Some(plan), Some(trial)) = (&known.current, &known.trial) else {
            return false;
        };
        let Some((after, slower)) = trial.end(plan.epoch, &self.slot.passes) else {
            return false;
        };
        let (before_ms, after_ms) = (trial.before.as_millis(), after.as_millis());
        info!(
            epoch = plan.epoch,
            before_ms, after_ms, slower, "tokens with the new placement"
        );
        known.back = known
            .trial
            .take()
            .map(|trial| trial.previous)
            .filter(|_| slower);
        slower
    }

    /// Whether a device is not what it was when it was last described.
    fn has_changed(
        &self,
        known: &mut Known,
        paces: &BTreeMap<NodeId, Result<Pace, CallError>>,
        loading: bool,
    ) -> bool {
        let now = Instant::now();
        let current = known.current.as_ref().map(|plan| plan.epoch);
        let waiting = loading || self.slot.in_force() != current;
        let unsettled = std::mem::replace(&mut known.unsettled, waiting) || waiting;
        let own = Seen {
            computed: self.slot.paces.of(&self.own.node),
            ..Seen::default()
        };
        let workers = known.profiles.keys().map(|node| {
            let computed = paces.get(node).and_then(|pace| pace.as_ref().ok().copied());
            let seen = computed.map(|computed| Seen {
                answers: self.slot.paces.of(node),
                computed,
            });
            (node, seen, Some(self.estimate(node)))
        });
        let devices = std::iter::once((&self.own.node, Some(own), None)).chain(workers);
        let mut changed = false;
        for (node, seen, estimate) in devices {
            if !unsettled {
                changed |= known.watch.look(node, seen, estimate.as_ref(), now);
            } else if let Some(seen) = seen {
                known.watch.pass_over(node, seen);
            }
        }
        changed
    }
}
