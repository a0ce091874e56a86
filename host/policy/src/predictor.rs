//! The predictor in force.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::Store;

use crate::{
    Component, Fault, FaultReason, Kind, Model, Operation, Sandbox, Setting, State, Tensor,
    builtin, check,
    component::World,
    contract::{PredictorCalls, PredictorWorld, Started},
    guest::Guest,
    instance::{Policy, Start},
    policy_slot::{PolicySlot, Role},
    recording::LastPass,
};

/// Says how much each neuron group will matter: by the policy in force, or by the calibrated mean importance.
///
/// Belongs to one model.
pub type PredictorSlot = PolicySlot<Predictor>;

/// Prediction for one model.
#[derive(Debug)]
pub struct Predictor {
    model: Arc<Model>,
    parameters: Arc<[Tensor]>,
    /// The last questions, to try a new policy on.
    last: Mutex<LastPass<State>>,
}

/// How a predictor is started.
pub(crate) struct PredictorStart {
    world: Arc<dyn PredictorWorld>,
    model: Arc<Model>,
    parameters: Arc<[Tensor]>,
    settings: Vec<Setting>,
}

impl Start for PredictorStart {
    type Bindings = Box<dyn PredictorCalls>;

    fn settings(&self) -> &[Setting] {
        &self.settings
    }

    fn start(&self, store: &mut Store<Guest>) -> Started<Self::Bindings> {
        self.world
            .start(store, &self.model, &self.parameters, &self.settings)
    }
}

impl Role for Predictor {
    type Start = PredictorStart;

    const KIND: Kind = Kind::Predictor;

    fn start(&self, component: &Component, settings: &[Setting]) -> Option<PredictorStart> {
        let World::Predictor(world) = &component.world else {
            return None;
        };
        Some(PredictorStart {
            world: world.clone(),
            model: self.model.clone(),
            parameters: self.parameters.clone(),
            settings: settings.to_vec(),
        })
    }

    fn try_instance(&self, policy: &Policy<PredictorStart>) -> Result<(), Fault> {
        let mut states = self.last().questions();
        if states.is_empty() {
            states.push(State {
                layer: 0,
                hidden: vec![1.0; self.model.width as usize],
            });
        }
        for state in states {
            self.ask(policy, state.layer, &state.hidden)?;
        }
        Ok(())
    }
}

impl PredictorSlot {
    /// A slot for `model` with the built-in rule in force. `parameters` are all arrays of the package's calibration, which
    /// every predictor is given.
    pub fn new(sandbox: &Sandbox, model: Model, parameters: Vec<Tensor>) -> Self {
        let role = Predictor {
            model: Arc::new(model),
            parameters: parameters.into(),
            last: Mutex::default(),
        };
        Self::with_role(sandbox, role)
    }

    /// The expected share of each group in `layer`'s contribution: replaces `scores` by one value a group, non-negative,
    /// together 1. `hidden` is the residual stream (`width` values) one round earlier.
    ///
    /// Returns why the policy's own answer was not used, if so; `scores` then holds the built-in rule's.
    pub fn score(&self, layer: u32, hidden: &[f32], scores: &mut Vec<f32>) -> Option<Fault> {
        let question = self.role.check_question(layer, hidden);
        if question.is_ok() {
            self.role.record(layer, hidden);
        }
        let Some(policy) = self.slot.current() else {
            builtin::score(&self.role.model, layer, scores);
            return None;
        };
        let outcome = question
            .map_err(|reason| policy.fault(Operation::Score, reason))
            .and_then(|()| self.role.ask(&policy, layer, hidden));
        match self.slot.settle(&policy, outcome) {
            Ok(answer) => {
                *scores = answer;
                builtin::normalise(scores);
                None
            }
            Err(fault) => {
                builtin::score(&self.role.model, layer, scores);
                Some(fault)
            }
        }
    }

    /// The model it belongs to.
    pub fn model(&self) -> &Model {
        &self.role.model
    }

    /// The last question about each layer.
    pub fn questions(&self) -> Vec<State> {
        self.role.last().questions()
    }
}

impl Predictor {
    fn record(&self, layer: u32, hidden: &[f32]) {
        if let Some(state) = self.last().entry(layer) {
            state.layer = layer;
            state.hidden.clear();
            state.hidden.extend_from_slice(hidden);
        }
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
            policy.limits().score,
            |bindings, store| bindings.score(store, layer, hidden),
        )?;
        check::scores(&self.model, &scores)
            .map_err(|reason| policy.fault(Operation::Score, reason))?;
        Ok(scores)
    }

    fn last(&self) -> MutexGuard<'_, LastPass<State>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
