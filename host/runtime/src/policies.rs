//! The schedulers and predictors of a node: which it has, which are in force.

mod view;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use halo_engine::library;
use halo_models::Package;
use halo_policy::{
    Cause, Component, Digest, Inspection, Kind, Model, PolicyError, PolicyStore, PredictorSlot,
    Recording, Sandbox, SchedulerSlot, Setting,
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config;
use crate::error::NodeError;
use crate::messages::{
    Choice, Fetch, Piece, PolicyEntry, PolicyList, PolicyState, Push, Pushed, Sequences,
};
use crate::pieces::{Incoming, piece_of};

pub use view::described;
pub(crate) use view::importance;

/// The name that puts the built-in rule in force.
pub const BUILT_IN: &str = halo_policy::builtin::NAME;

/// What is in force where neither the configuration nor the cluster says otherwise.
const SCHEDULER: &str = "scheduler-halo";
const PREDICTOR: &str = "predictor-probe";

/// Components that are kept compiled.
const COMPILED: usize = 8;

/// A node's policies.
#[derive(Debug)]
pub struct Policies {
    sandbox: Sandbox,
    store: PolicyStore,
    scheduler: SchedulerSlot,
    predictor: PredictorSlot,
    model: Model,
    settings: config::Policies,
    /// The components compiled last, to be tried, put in force and gone back to.
    compiled: Mutex<VecDeque<Component>>,
    incoming: Mutex<Incoming>,
    /// Of the last changes, so that a node that comes later can tell whose policies are the latest.
    sequence: Mutex<Sequences>,
    /// Held while a change is made.
    changing: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Policies {
    /// Puts the configured scheduler and predictor in force for a model.
    ///
    /// # Errors
    ///
    /// A policy is not there or refused, or the package's calibration cannot be read.
    pub fn new(settings: &config::Policies, package: &Package) -> Result<Self, NodeError> {
        let (model, parameters) = described(package)?;
        let sandbox = sandbox(settings)?;
        let policies = Self {
            scheduler: SchedulerSlot::new(&sandbox),
            predictor: PredictorSlot::new(&sandbox, model.clone(), parameters),
            sandbox,
            store: store(settings),
            model,
            settings: settings.clone(),
            compiled: Mutex::default(),
            incoming: Mutex::default(),
            sequence: Mutex::default(),
            changing: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        policies.start(
            settings.scheduler.as_deref().unwrap_or(SCHEDULER),
            Kind::Scheduler,
        )?;
        policies.start(
            settings.predictor.as_deref().unwrap_or(PREDICTOR),
            Kind::Predictor,
        )?;
        Ok(policies)
    }

    fn start(&self, name: &str, kind: Kind) -> Result<(), NodeError> {
        if name == BUILT_IN {
            return Ok(());
        }
        let stored = self.store.get(name)?;
        let component = self.compile(&stored.name, stored.digest, &stored.bytes)?;
        if component.kind() != kind {
            return Err(PolicyError::WrongKind {
                name: name.to_owned(),
                expected: kind,
                found: component.kind(),
            }
            .into());
        }
        if kind == Kind::Predictor && self.model.importance.is_empty() {
            // A predictor's parameters are the package's calibration; without one there is nothing to predict from.
            info!(
                model = self.model.layers,
                "the package is not calibrated, so every group counts as equally important; `halo model calibrate` changes that"
            );
            return Ok(());
        }
        let settings = self.settings.settings(component.name());
        Ok(self.put_in_force(&component, &settings, Cause::Started)?)
    }

    /// The model as policies see it.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The scheduler in force.
    pub fn scheduler(&self) -> &SchedulerSlot {
        &self.scheduler
    }

    /// The predictor in force.
    pub fn predictor(&self) -> &PredictorSlot {
        &self.predictor
    }

    /// Whether the configuration leaves it to the cluster which policy of this kind is in force.
    pub(crate) fn follows_cluster(&self, kind: Kind) -> bool {
        match kind {
            Kind::Scheduler => self.settings.scheduler.is_none(),
            Kind::Predictor => self.settings.predictor.is_none(),
        }
    }

    /// Wakes whenever a policy comes into force.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes a piece of a component. Once it is whole it is compiled, kept, and there to be put in force.
    pub(crate) fn receive(&self, push: &Push) -> Result<Pushed, String> {
        let pushed = |have, unsaved| Ok(Pushed { have, unsaved });
        let Push {
            name, digest, size, ..
        } = push;
        // Under another name it is another policy's version there.
        if self.store.get(name).is_ok_and(|s| s.digest == *digest) {
            return pushed(*size, None);
        }
        let limit = self.sandbox.limits().component;
        let arrived = lock(&self.incoming).add(push, limit)?;
        match arrived {
            Ok(component) => pushed(*size, self.keep(name, *digest, &component)?),
            Err(have) => pushed(have, None),
        }
    }

    /// Keeps a component that came from elsewhere, if it is a policy. Gives the reason if it is in memory only.
    pub(crate) fn keep(
        &self,
        name: &str,
        digest: Digest,
        component: &[u8],
    ) -> Result<Option<String>, String> {
        self.compile(name, digest, component)
            .map_err(|e| e.to_string())?;
        let unsaved = self.store.save(component, name).err();
        if let Some(error) = &unsaved {
            warn!(policy = name, "in memory, but not kept: {error}");
        }
        Ok(unsaved.map(|error| error.to_string()))
    }

    /// A piece of a component of the store.
    pub(crate) fn piece(&self, fetch: &Fetch) -> Result<Piece, PolicyError> {
        let stored = self.store.get(&fetch.digest.to_string())?;
        Ok(piece_of(&stored.bytes, fetch.offset))
    }

    /// What is to be known about a policy of the store, by its name or digest.
    pub(crate) fn inspect(&self, wanted: &str) -> Result<Inspection, PolicyError> {
        let stored = self.store.get(wanted)?;
        let component = self.compile(&stored.name, stored.digest, &stored.bytes)?;
        Ok(Inspection::new(&component, self.sandbox.limits()))
    }

    /// Tries a policy on the questions asked last, and leaves what is in force.
    pub(crate) fn try_out(&self, choice: &Choice) -> Result<(), PolicyError> {
        let Some(component) = self.component(choice)? else {
            return Ok(());
        };
        let settings = self.settings_of(choice);
        match choice.kind {
            Kind::Scheduler => self.scheduler.try_out(&component, &settings),
            Kind::Predictor => self.predictor.try_out(&component, &settings),
        }
    }

    /// Puts a policy in force as the change in the cluster that has this number. It is tried first, and if it fails, or another
    /// change is later, what was in force stays.
    pub(crate) fn activate(
        &self,
        choice: &Choice,
        cause: Cause,
        sequence: u64,
    ) -> Result<(), String> {
        let component = self.component(choice).map_err(|e| e.to_string())?;
        let _changing = lock(&self.changing);
        let kind = choice.kind;
        if sequence < lock(&self.sequence).of(kind) {
            return Err(format!(
                "another {kind} was put in force at the same time, and stays; `halo policy history` shows it"
            ));
        }
        match component {
            Some(component) => self
                .put_in_force(&component, &self.settings_of(choice), cause)
                .map_err(|e| e.to_string())?,
            None => self.deactivate(kind, cause),
        }
        self.settle(kind, sequence);
        Ok(())
    }

    /// Takes note that nothing is to be taken over from the cluster up to this change.
    pub(crate) fn settle(&self, kind: Kind, sequence: u64) {
        let mut latest = lock(&self.sequence);
        let settled = latest.of(kind).max(sequence);
        latest.set(kind, settled);
    }

    /// Whether a policy is at hand to be put in force.
    pub(crate) fn has(&self, choice: &Choice) -> bool {
        self.component(choice).is_ok()
    }

    /// The component of a choice; nothing if it is the built-in rule.
    fn component(&self, choice: &Choice) -> Result<Option<Component>, PolicyError> {
        let Some(digest) = choice.digest else {
            return Ok(None);
        };
        if let Some(component) = self.compiled(&choice.name, digest) {
            return Ok(Some(component));
        }
        let stored = self.store.get(&digest.to_string())?;
        self.compile(&choice.name, digest, &stored.bytes).map(Some)
    }

    fn compiled(&self, name: &str, digest: Digest) -> Option<Component> {
        let compiled = lock(&self.compiled);
        let mut components = compiled.iter();
        components
            .find(|c| c.digest() == digest && c.name() == name)
            .cloned()
    }

    /// Compiles a component, unless that was done lately: on a small machine it takes seconds.
    fn compile(&self, name: &str, digest: Digest, bytes: &[u8]) -> Result<Component, PolicyError> {
        if let Some(component) = self.compiled(name, digest) {
            return Ok(component);
        }
        let component = self.sandbox.compile(name, bytes)?;
        let mut compiled = lock(&self.compiled);
        if compiled.len() == COMPILED {
            compiled.pop_front();
        }
        compiled.push_back(component.clone());
        Ok(component)
    }

    fn settings_of(&self, choice: &Choice) -> Vec<Setting> {
        if choice.settings.is_empty() {
            self.settings.settings(&choice.name)
        } else {
            choice.settings.clone()
        }
    }

    fn put_in_force(
        &self,
        component: &Component,
        settings: &[Setting],
        cause: Cause,
    ) -> Result<(), PolicyError> {
        match component.kind() {
            Kind::Scheduler => self.scheduler.put_in_force(component, settings, cause)?,
            Kind::Predictor => self.predictor.put_in_force(component, settings, cause)?,
        }
        self.changed.send_modify(|changes| *changes += 1);
        Ok(())
    }

    fn deactivate(&self, kind: Kind, cause: Cause) {
        match kind {
            Kind::Scheduler => self.scheduler.deactivate(cause),
            Kind::Predictor => self.predictor.deactivate(cause),
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// What is in force, and was.
    pub fn state(&self) -> PolicyState {
        PolicyState {
            sequence: *lock(&self.sequence),
            scheduler: self.scheduler.history(),
            predictor: self.predictor.history(),
        }
    }

    /// What the policies in force were asked last.
    pub fn recording(&self) -> Recording {
        let (placing, rounds) = self.scheduler.questions();
        Recording {
            model: self.model.clone(),
            placing,
            rounds,
            states: self.predictor.questions(),
        }
    }

    /// What the node has and what is in force.
    ///
    /// # Errors
    ///
    /// The policy folder cannot be read.
    pub fn list(&self) -> Result<PolicyList, PolicyError> {
        let state = self.state();
        let of = |kind, digest: Option<Digest>| {
            let history = state.history(kind).iter();
            history.filter(move |change| change.digest == digest)
        };
        let in_force = |kind| state.history(kind).last();
        let mut policies = Vec::new();
        for entry in self.store.list()? {
            // Nothing is compiled for a list: on a small machine that takes seconds. A file that is no policy is not listed;
            // activating it says what is wrong with it.
            let stored = self.store.get(&entry.digest.to_string())?;
            let Some(kind) = Kind::of(&stored.bytes) else {
                continue;
            };
            let digest = Some(entry.digest);
            policies.push(PolicyEntry {
                name: entry.name,
                kind,
                digest,
                active: in_force(kind).is_some_and(|now| now.digest == digest),
                origin: match entry.origin {
                    halo_policy::Origin::Builtin => "built in".into(),
                    halo_policy::Origin::File(path) => path.display().to_string(),
                },
                faults: of(kind, digest).map(|change| change.faults).sum(),
            });
        }
        // What is in force but not in the store: the built-in rule, or a component that could not be saved.
        for kind in [Kind::Scheduler, Kind::Predictor] {
            if let Some(now) = in_force(kind)
                && !policies.iter().any(|p| p.active && p.kind == kind)
            {
                policies.push(PolicyEntry {
                    name: now.name.clone(),
                    kind,
                    digest: now.digest,
                    active: true,
                    origin: "in memory".into(),
                    faults: of(kind, now.digest).map(|change| change.faults).sum(),
                });
            }
        }
        Ok(PolicyList {
            policies,
            sequence: state.sequence,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The store that these settings describe: the built-in policies and the folder's.
pub fn store(settings: &config::Policies) -> PolicyStore {
    let folder = settings
        .folder
        .clone()
        .or_else(|| library::data_folder().map(|d| d.join("policies")));
    folder.map_or_else(PolicyStore::builtin, PolicyStore::with_folder)
}

/// A sandbox with these settings' limits, which keeps what it compiles in the data folder.
///
/// # Errors
///
/// [`PolicyError::Engine`] if this machine cannot run policies.
pub fn sandbox(settings: &config::Policies) -> Result<Sandbox, PolicyError> {
    let folder = library::data_folder().map(|d| d.join("cache/policies"));
    Sandbox::keeping(settings.limits.clone(), folder)
}
