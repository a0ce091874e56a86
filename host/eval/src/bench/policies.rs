use halo_models::Package;
use halo_policy::{
    Debtor, Device, Limits, Model, PolicyError, PolicyStore, PredictorSlot, Round, Sandbox,
    SchedulerSlot, Tensor,
};
use halo_runtime::policies::described;
use serde::{Deserialize, Serialize};

use super::Timing;
use crate::{EvalError, unhurried};

/// Rank of the probe that is made up for a package without one.
const RANK: usize = 32;

/// Workers of the cluster that is scheduled.
const WORKERS: u32 = 3;

/// Calls in one measurement of what is called in every round, and of what is called for a placement.
const ROUNDS: usize = 500;
const PLACEMENTS: usize = 5;

/// What a call of the policies that come with HALO takes, with all that goes in and out of the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyTimings {
    /// `predictor-probe` scores a layer's groups.
    pub score: Timing,
    /// `scheduler-halo` says whom of three workers to wait for in a round.
    pub admit: Timing,
    /// `scheduler-halo` places the model's groups on a leader and three workers.
    pub place: Timing,
}

/// The policies in their guests, and what they are asked.
pub(super) struct Policies {
    model: Model,
    predictor: PredictorSlot,
    scheduler: SchedulerSlot,
    devices: Vec<Device>,
    hidden: Vec<f32>,
}

impl Policies {
    /// Puts them in force for a package; what a probe takes depends on its rank and not on its values.
    pub(super) fn start(package: &Package) -> Result<Self, EvalError> {
        let (model, mut parameters) = described(package)?;
        if !parameters.iter().any(|tensor| tensor.name == "probe.down") {
            parameters = made_up(&model);
        }
        let start = || -> Result<_, PolicyError> {
            let sandbox = Sandbox::new(unhurried(&Limits::default()))?;
            let compile = |name: &str| {
                let stored = PolicyStore::builtin().get(name)?;
                sandbox.compile(name, &stored.bytes)
            };
            let predictor = PredictorSlot::new(&sandbox, model.clone(), parameters);
            predictor.activate(&compile("predictor-probe")?, &[])?;
            let scheduler = SchedulerSlot::new(&sandbox);
            scheduler.activate(&compile("scheduler-halo")?, &[])?;
            Ok((predictor, scheduler))
        };
        let (predictor, scheduler) = start().map_err(|e| EvalError::Policy(e.to_string()))?;
        let device = |index: u32| Device {
            name: format!("node{index}"),
            leader: index == 0,
            speed: 1e4 / (index + 1) as f32,
            memory: u64::MAX / 8,
            delay_us: 300 * index,
            spread_us: 50 * index,
            loss: 0.01 * index as f32,
        };
        Ok(Self {
            hidden: (0..model.width).map(|i| (i % 13) as f32 - 6.0).collect(),
            devices: (0..=WORKERS).map(device).collect(),
            model,
            predictor,
            scheduler,
        })
    }

    pub(super) fn measure(&self, timings: &mut PolicyTimings) -> Result<(), EvalError> {
        let or_fault = |fault: Option<halo_policy::Fault>| match fault {
            None => Ok(()),
            Some(fault) => Err(EvalError::Policy(fault.to_string())),
        };
        let layer = |call: usize| call as u32 % self.model.layers;
        let mut scores = Vec::new();
        timings.score.measure(ROUNDS, || {
            (0..ROUNDS).try_for_each(|call| {
                or_fault(self.predictor.score(layer(call), &self.hidden, &mut scores))
            })
        })?;
        timings.place.measure(PLACEMENTS, || {
            (0..PLACEMENTS).try_for_each(|_| {
                or_fault(self.scheduler.place(&self.model, &self.devices, None).fault)
            })
        })?;
        let mut round = Round {
            rows: 1,
            debtors: (1..=WORKERS)
                .map(|device| Debtor {
                    device,
                    share: 0.1,
                    expected_us: 1000,
                    spread_us: 100,
                    loss: 0.05,
                })
                .collect(),
            ..Round::default()
        };
        timings.admit.measure(ROUNDS, || {
            (0..ROUNDS).try_for_each(|call| {
                round.layer = layer(call);
                or_fault(self.scheduler.admit(&round).fault)
            })
        })
    }
}

/// The parameters of a probe that says nothing.
fn made_up(model: &Model) -> Vec<Tensor> {
    let (layers, width, groups) = (model.layers, model.width, model.groups);
    let tensor = |name: &str, shape: &[u32]| {
        let count = shape.iter().map(|&n| n as usize).product();
        Tensor {
            name: name.into(),
            shape: shape.to_vec(),
            values: vec![1e-3; count],
        }
    };
    vec![
        tensor("probe.down", &[layers, RANK as u32, width]),
        tensor("probe.up", &[layers, groups, RANK as u32]),
        tensor("probe.bias", &[layers, groups]),
    ]
}
