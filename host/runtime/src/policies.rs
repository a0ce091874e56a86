//! The schedulers and predictors of a node: which it has, which are in force.

use std::sync::atomic::{AtomicU64, Ordering};

use halo_models::{Calibration, Package};
use halo_policy::{
    Active, Component, Digest, Kind, Model, PolicyError, PolicyStore, PredictorSlot, Sandbox,
    SchedulerSlot, Setting, Stored, Tensor,
};
use tokio::sync::watch;
use tracing::info;

use crate::config;
use crate::error::NodeError;
use crate::messages::{PolicyEntry, PolicyList};

/// The name that puts the built-in rule in force.
pub const BUILT_IN: &str = halo_policy::builtin::NAME;

/// What is in force where neither the configuration nor the cluster says otherwise.
const SCHEDULER: &str = "scheduler-halo";
const PREDICTOR: &str = "predictor-probe";

/// A node's policies.
#[derive(Debug)]
pub struct Policies {
    sandbox: Sandbox,
    store: PolicyStore,
    scheduler: SchedulerSlot,
    predictor: PredictorSlot,
    model: Model,
    settings: config::Policies,
    /// Of the last change, so that a node that comes later can tell whose policies are the latest.
    sequence: AtomicU64,
    changed: watch::Sender<u64>,
}

impl Policies {
    /// Puts the configured scheduler and predictor in force for a model.
    ///
    /// # Errors
    ///
    /// A policy is not there or refused, or the package's calibration cannot be read.
    pub fn new(settings: &config::Policies, package: &Package) -> Result<Self, NodeError> {
        let calibration = package.calibration()?;
        let model = model(package, calibration.as_ref());
        let sandbox = Sandbox::new(settings.limits.clone())?;
        let policies = Self {
            scheduler: SchedulerSlot::new(&sandbox),
            predictor: PredictorSlot::new(
                &sandbox,
                model.clone(),
                parameters(calibration.as_ref()),
            ),
            sandbox,
            store: store(settings),
            model,
            settings: settings.clone(),
            sequence: AtomicU64::new(0),
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
        let component = self.compile(&self.store.get(name)?)?;
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
        Ok(self.put_in_force(&component, &self.settings.settings(component.name()))?)
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

    /// A policy of the store, by name or digest.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn find(&self, wanted: &str) -> Result<Stored, PolicyError> {
        self.store.get(wanted)
    }

    /// Puts a component in force as the `sequence`-th change in the cluster. It must have the expected digest; it is compiled
    /// and tried first, and if it fails, what was in force stays.
    ///
    /// # Errors
    ///
    /// The digest differs, the component cannot be used, or its trial failed.
    pub fn activate(
        &self,
        name: &str,
        bytes: &[u8],
        digest: Digest,
        settings: &[Setting],
        sequence: u64,
    ) -> Result<Kind, PolicyError> {
        let found = Digest::of(bytes);
        if found != digest {
            return Err(PolicyError::WrongDigest {
                name: name.to_owned(),
                expected: digest,
                found,
            });
        }
        let component = self.sandbox.compile(name, bytes)?;
        let own = self.settings.settings(name);
        self.put_in_force(
            &component,
            if settings.is_empty() { &own } else { settings },
        )?;
        self.sequence.fetch_max(sequence, Ordering::Relaxed);
        Ok(component.kind())
    }

    /// Keeps a component that came from another node.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> Result<(), PolicyError> {
        self.store.save(bytes, name).map(drop)
    }

    fn compile(&self, stored: &Stored) -> Result<Component, PolicyError> {
        self.sandbox.compile(&stored.name, &stored.bytes)
    }

    fn put_in_force(&self, component: &Component, settings: &[Setting]) -> Result<(), PolicyError> {
        match component.kind() {
            Kind::Scheduler => self.scheduler.activate(component, settings)?,
            Kind::Predictor => self.predictor.activate(component, settings)?,
        }
        self.changed.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// What the node has and what is in force.
    ///
    /// # Errors
    ///
    /// The policy folder cannot be read.
    pub fn list(&self) -> Result<PolicyList, PolicyError> {
        let active = [
            (Kind::Scheduler, self.scheduler.active()),
            (Kind::Predictor, self.predictor.active()),
        ];
        let mut policies = Vec::new();
        for entry in self.store.list()? {
            // Nothing is compiled for a list: on a small machine that takes seconds. A file that is no policy is not listed;
            // activating it says what is wrong with it.
            let stored = self.store.get(&entry.digest.to_string())?;
            let Some(kind) = Kind::of(&stored.bytes) else {
                continue;
            };
            let now = active
                .iter()
                .find(|(_, a)| a.digest == Some(entry.digest))
                .map(|(_, a)| a);
            policies.push(PolicyEntry {
                name: entry.name,
                kind,
                digest: Some(entry.digest),
                active: now.is_some(),
                origin: match entry.origin {
                    halo_policy::Origin::Builtin => "built in".into(),
                    halo_policy::Origin::File(path) => path.display().to_string(),
                },
                faults: now.map_or(0, |a| a.faults),
            });
        }
        for (kind, now) in &active {
            if !policies.iter().any(|p| p.active && p.kind == *kind) {
                policies.push(in_force_elsewhere(*kind, now));
            }
        }
        Ok(PolicyList {
            policies,
            sequence: self.sequence.load(Ordering::Relaxed),
        })
    }
}

/// What is in force but not in the store: the built-in rule, or a component that was never saved.
fn in_force_elsewhere(kind: Kind, now: &Active) -> PolicyEntry {
    PolicyEntry {
        name: now.name.clone(),
        kind,
        digest: now.digest,
        active: true,
        origin: "in memory".into(),
        faults: now.faults,
    }
}

/// The store that these settings describe: the built-in policies and the folder's.
pub fn store(settings: &config::Policies) -> PolicyStore {
    let folder = settings
        .folder
        .clone()
        .or_else(|| halo_engine::library::data_folder().map(|d| d.join("policies")));
    folder.map_or_else(PolicyStore::builtin, PolicyStore::with_folder)
}

/// How much each group matters on average, `[layers, groups]`: the calibration's word, if it has one that fits the model.
pub(crate) fn importance<'a>(
    package: &Package,
    calibration: Option<&'a Calibration>,
) -> Option<&'a [f32]> {
    let mean = calibration?.arrays.get("mean")?;
    let fits = mean.shape == [package.shape().layers, package.groups()];
    fits.then_some(&mean.values)
}

/// The model as policies see it. Work is counted in bytes of weights, since decoding is bound by reading them.
pub fn model(package: &Package, calibration: Option<&Calibration>) -> Model {
    let shape = package.shape();
    let group_bytes = package.group_bytes();
    let attention = package.attention(0);
    let attention_bytes: u64 = [
        attention.query,
        attention.key,
        attention.value,
        attention.output,
    ]
    .iter()
    .map(|m| m.bytes())
    .sum();
    // The engine computes an unquantised head in f32.
    let head = package.head();
    let head_bytes = match head.values {
        halo_models::Values::Quantised { .. } => head.bytes(),
        _ => 4 * head.rows as u64 * head.columns as u64,
    };
    let groups = package.groups();
    let importance = importance(package, calibration).map_or_else(Vec::new, |mean| {
        mean.chunks(groups)
            .flat_map(|layer| {
                let sum: f32 = layer.iter().sum();
                layer.iter().map(move |v| {
                    if sum > 0.0 {
                        v / sum
                    } else {
                        1.0 / layer.len() as f32
                    }
                })
            })
            .collect()
    });
    Model {
        layers: shape.layers as u32,
        width: shape.width as u32,
        groups: groups as u32,
        group_bytes,
        attention_cost: attention_bytes as f32 / group_bytes as f32,
        head_cost: head_bytes as f32 / group_bytes as f32,
        importance,
    }
}

fn parameters(calibration: Option<&Calibration>) -> Vec<Tensor> {
    let arrays = calibration.into_iter().flat_map(|c| &c.arrays);
    arrays
        .map(|(name, array)| Tensor {
            name: name.clone(),
            shape: array.shape.iter().map(|&n| n as u32).collect(),
            values: array.values.clone(),
        })
        .collect()
}
