//! The predictor in force.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use wasmtime::Store;

use crate::{
    Active, Cause, Change, Component, Fault, FaultReason, Kind, Model, Operation, PolicyError,
    Sandbox, Setting, State, Tensor, builtin, check,
    component::World,
    contract::{PredictorCalls, PredictorWorld, Started},
    guest::Guest,
    instance::{Policy, Start},
    recording::LastPass,
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
    /// The last questions, to try a new policy on.
    last: Mutex<LastPass<State>>,
}

struct PredictorStart {
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

impl PredictorSlot {
    /// A slot for `model` with the built-in rule in force. `parameters` are all arrays of the package's calibration, which
    /// every predictor is given.
    pub fn new(sandbox: &Sandbox, model: Model, parameters: Vec<Tensor>) -> Self {
        Self {
            sandbox: sandbox.clone(),
            model: Arc::new(model),
            parameters: parameters.into(),
            slot: Slot::new(Kind::Predictor, sandbox.limits().strikes),
            last: Mutex::default(),
        }
    }

    /// Puts a policy in force.
    ///
    /// It is instantiated, initialised and tried on the last pass's questions (a made-up one if there are none) beside the one
    /// in force, and becomes current between two calls; calls under way end on the old one. The trial's calls of `score` are
    /// the new instance's first ones.
    ///
    /// # Errors
    ///
    /// [`PolicyError::WrongKind`] for a scheduler, [`PolicyError::Trial`] if it failed its initialisation (for example
    /// because the package has not the parameters it needs) or its trial. The policy in force stays.
    pub fn activate(&self, component: &Component, settings: &[Setting]) -> Result<(), PolicyError> {
        self.put_in_force(component, settings, Cause::Activated)
    }

    /// As [`activate`](Self::activate), for another reason.
    ///
    /// # Errors
    ///
    /// Those of [`activate`](Self::activate).
    pub fn put_in_force(
        &self,
        component: &Component,
        settings: &[Setting],
        cause: Cause,
    ) -> Result<(), PolicyError> {
        let policy = self.start(component, settings)?;
        self.slot.replace(Some(policy), cause);
        Ok(())
    }

    /// Does all that [`activate`](Self::activate) does first, and leaves what is in force.
    ///
    /// # Errors
    ///
    /// Those of [`activate`](Self::activate).
    pub fn try_out(&self, component: &Component, settings: &[Setting]) -> Result<(), PolicyError> {
        self.start(component, settings).map(drop)
    }

    /// Puts the built-in rule in force.
    pub fn deactivate(&self, cause: Cause) {
        self.slot.replace(None, cause);
    }

    /// A new instance that has passed its trial.
    fn start(
        &self,
        component: &Component,
        settings: &[Setting],
    ) -> Result<Policy<PredictorStart>, PolicyError> {
        let World::Predictor(world) = &component.world else {
            return Err(PolicyError::WrongKind {
                name: component.name().to_owned(),
                expected: Kind::Predictor,
                found: component.kind(),
            });
        };
        let start = PredictorStart {
            world: world.clone(),
            model: self.model.clone(),
            parameters: self.parameters.clone(),
            settings: settings.to_vec(),
        };
        let policy = Policy::start(&self.sandbox, component, start)?;
        let mut states = self.questions();
        if states.is_empty() {
            states.push(State {
                layer: 0,
                hidden: vec![1.0; self.model.width as usize],
            });
        }
        for state in states {
            self.ask(&policy, state.layer, &state.hidden)?;
        }
        Ok(policy)
    }

    /// The expected share of each group in `layer`'s contribution: replaces `scores` by one value a group, non-negative,
    /// together 1. `hidden` is the residual stream (`width` values) one round earlier.
    ///
    /// Returns why the policy's own answer was not used, if so; `scores` then holds the built-in rule's.
    pub fn score(&self, layer: u32, hidden: &[f32], scores: &mut Vec<f32>) -> Option<Fault> {
        let question = self.check_question(layer, hidden);
        if question.is_ok() {
            self.record(layer, hidden);
        }
        let Some(policy) = self.slot.current() else {
            builtin::score(&self.model, layer, scores);
            return None;
        };
        let outcome = question
            .map_err(|reason| policy.fault(Operation::Score, reason))
            .and_then(|()| self.ask(&policy, layer, hidden));
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

    /// What has been in force, oldest first; the last is in force now.
    pub fn history(&self) -> Vec<Change> {
        self.slot.history()
    }

    /// The last question about each layer.
    pub fn questions(&self) -> Vec<State> {
        self.last().questions()
    }

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
            self.sandbox.limits().score,
            |bindings, store| bindings.score(store, layer, hidden),
        )?;
        check::scores(&self.model, &scores)
            .map_err(|reason| policy.fault(Operation::Score, reason))?;
        Ok(scores)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, LastPass<State>> {
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
