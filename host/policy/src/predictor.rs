//! The predictor in force.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use wasmtime::Store;

use crate::{
    Active, Component, Fault, FaultReason, Kind, Model, Operation, PolicyError, Sandbox, Setting,
    Tensor,
    bindings::{
        predictor::{PredictorPolicy, PredictorPolicyPre},
        scheduler::halo::policy::types,
    },
    builtin, check,
    component::World,
    convert,
    guest::Guest,
    instance::{Policy, Start},
    slot::Slot,
};

/// Says how much each neuron group will matter: by the policy in force, or by the calibrated mean importance.
///
/// Belongs to one model. All methods take `&self` and may be called from any threads at once.
pub struct PredictorSlot {
    sandbox: Sandbox,
    model: Arc<Model>,
    parameters: Arc<[Tensor]>,
    slot: Slot<PredictorStart>,
    /// The last question, to try a new policy on.
    last: Mutex<(u32, Vec<f32>)>,
}

struct PredictorStart {
    pre: PredictorPolicyPre<Guest>,
    model: Arc<Model>,
    parameters: Arc<[Tensor]>,
    settings: Vec<Setting>,
}

impl Start for PredictorStart {
    type Bindings = PredictorPolicy;

    fn start(&self, store: &mut Store<Guest>) -> wasmtime::Result<Result<PredictorPolicy, String>> {
        let bindings = self.pre.instantiate(&mut *store)?;
        let model = types::Model::from(&*self.model);
        let parameters = convert::tensors(&self.parameters);
        let settings = convert::settings(&self.settings);
        let outcome =
            bindings
                .halo_policy_predictor()
                .call_init(store, &model, &parameters, &settings)?;
        Ok(outcome.map(|()| bindings))
    }
}

impl PredictorSlot {
    /// A slot for `model` with the built-in rule in force. `parameters` are all arrays of the package's calibration, which
    /// every predictor is given.
    pub fn new(sandbox: &Sandbox, model: Model, parameters: Vec<Tensor>) -> Self {
        let hidden = vec![1.0; model.width as usize];
        Self {
            sandbox: sandbox.clone(),
            model: Arc::new(model),
            parameters: parameters.into(),
            slot: Slot::new(Kind::Predictor, sandbox.limits().strikes),
            last: Mutex::new((0, hidden)),
        }
    }

    /// Puts a policy in force.
    ///
    /// It is instantiated, initialised and tried on the last question asked beside the one in force, and becomes current
    /// between two calls; calls under way end on the old one. The trial's `score` is the new instance's first call.
    ///
    /// # Errors
    ///
    /// [`PolicyError::WrongKind`] for a scheduler, [`PolicyError::Trial`] if it failed its initialisation (for example
    /// because the package has not the parameters it needs) or its trial. The policy in force stays.
    pub fn activate(&self, component: &Component, settings: &[Setting]) -> Result<(), PolicyError> {
        let World::Predictor(pre) = &component.world else {
            return Err(PolicyError::WrongKind {
                name: component.name().to_owned(),
                expected: Kind::Predictor,
                found: component.kind(),
            });
        };
        let start = PredictorStart {
            pre: pre.clone(),
            model: self.model.clone(),
            parameters: self.parameters.clone(),
            settings: settings.to_vec(),
        };
        let policy = Policy::start(&self.sandbox, component, start)?;
        let (layer, hidden) = self.last().clone();
        self.ask(&policy, layer, &hidden)?;
        self.slot.replace(Some(policy));
        Ok(())
    }

    /// Puts the built-in rule in force.
    pub fn deactivate(&self) {
        self.slot.replace(None);
    }

    /// The expected share of each group in `layer`'s contribution: replaces `scores` by one value a group, non-negative,
    /// together 1. `hidden` is the residual stream (`width` values) one round earlier.
    ///
    /// Returns why the policy's own answer was not used, if so; `scores` then holds the built-in rule's.
    pub fn score(&self, layer: u32, hidden: &[f32], scores: &mut Vec<f32>) -> Option<Fault> {
        let Some(policy) = self.slot.current() else {
            builtin::score(&self.model, layer, scores);
            return None;
        };
        let outcome = self
            .check_question(layer, hidden)
            .map_err(|reason| policy.fault(Operation::Score, reason));
        let outcome = outcome.and_then(|()| {
            {
                let mut last = self.last();
                last.0 = layer;
                last.1.clear();
                last.1.extend_from_slice(hidden);
            }
            self.ask(&policy, layer, hidden)
        });
        match self.slot.settle(&policy, outcome) {
            Ok(answer) => {
                *scores = answer;
                builtin::normalise(scores);
                None
            }
            Err(fault) => {
                builtin::score(&self.model, layer, scores);
                Some(fault)
            }
        }
    }

    /// The model it belongs to.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What is in force.
    pub fn active(&self) -> Active {
        self.slot.active()
    }

    fn check_question(&self, layer: u32, hidden: &[f32]) -> Result<(), FaultReason> {
        check::model(&self.model)?;
        if layer >= self.model.layers {
            return Err(FaultReason::Question(format!(
                "layer {layer} of {}",
                self.model.layers
            )));
        }
        if hidden.len() != self.model.width as usize {
            let words = format!(
                "{} hidden values where the width is {}",
                hidden.len(),
                self.model.width
            );
            return Err(FaultReason::Question(words));
        }
        Ok(())
    }

    fn ask(
        &self,
        policy: &Policy<PredictorStart>,
        layer: u32,
        hidden: &[f32],
    ) -> Result<Vec<f32>, Fault> {
        let scores = policy.call(
            Operation::Score,
            self.sandbox.limits().score,
            |bindings, store| {
                bindings
                    .halo_policy_predictor()
                    .call_score(store, layer, hidden)
            },
        )?;
        check::scores(&self.model, &scores)
            .map_err(|reason| policy.fault(Operation::Score, reason))?;
        Ok(scores)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, (u32, Vec<f32>)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PredictorSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PredictorSlot")
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}
