//! `halo:policy@0.1.0`: its two worlds, and what passes through them.

use wasmtime::{Store, component::InstancePre};

use super::{PredictorCalls, PredictorWorld, SchedulerCalls, SchedulerWorld, Started};
use crate::bindings::{
    predictor::{PredictorPolicy, PredictorPolicyPre},
    scheduler::{
        SchedulerPolicy, SchedulerPolicyPre, exports::halo::policy::scheduler as wire,
        halo::policy::types,
    },
};
use crate::guest::Guest;
use crate::{Debtor, Device, Model, Order, Placement, Round, Setting, Standby, Tensor, Verdict};

/// A component's scheduler.
///
/// # Errors
///
/// Its functions or types are not those of the world.
pub(crate) fn scheduler(pre: InstancePre<Guest>) -> wasmtime::Result<impl SchedulerWorld> {
    SchedulerPolicyPre::new(pre)
}

/// A component's predictor.
///
/// # Errors
///
/// Its functions or types are not those of the world.
pub(crate) fn predictor(pre: InstancePre<Guest>) -> wasmtime::Result<impl PredictorWorld> {
    PredictorPolicyPre::new(pre)
}

impl SchedulerWorld for SchedulerPolicyPre<Guest> {
    fn start(
        &self,
        store: &mut Store<Guest>,
        settings: &[Setting],
    ) -> Started<Box<dyn SchedulerCalls>> {
        let policy = self.instantiate(&mut *store)?;
        let outcome = policy
            .halo_policy_scheduler()
            .call_init(store, &self::settings(settings))?;
        Ok(outcome.map(|()| Box::new(policy) as _))
    }
}

impl SchedulerCalls for SchedulerPolicy {
    fn place(
        &self,
        store: &mut Store<Guest>,
        model: &Model,
        devices: &[Device],
        current: Option<&Placement>,
    ) -> Started<Placement> {
        let devices: Vec<wire::Device> = devices.iter().map(wire::Device::from).collect();
        let current = current.map(wire::Placement::from);
        let scheduler = self.halo_policy_scheduler();
        let outcome = scheduler.call_place(store, &model.into(), &devices, current.as_ref())?;
        Ok(outcome.map(Placement::from))
    }

    fn admit(&self, store: &mut Store<Guest>, round: &Round) -> wasmtime::Result<Verdict> {
        let scheduler = self.halo_policy_scheduler();
        Ok(scheduler.call_admit(store, &round.into())?.into())
    }
}

impl PredictorWorld for PredictorPolicyPre<Guest> {
    fn start(
        &self,
        store: &mut Store<Guest>,
        model: &Model,
        parameters: &[Tensor],
        settings: &[Setting],
    ) -> Started<Box<dyn PredictorCalls>> {
        let policy = self.instantiate(&mut *store)?;
        let (parameters, settings) = (tensors(parameters), self::settings(settings));
        let outcome = policy.halo_policy_predictor().call_init(
            store,
            &model.into(),
            &parameters,
            &settings,
        )?;
        Ok(outcome.map(|()| Box::new(policy) as _))
    }
}

impl PredictorCalls for PredictorPolicy {
    fn score(
        &self,
        store: &mut Store<Guest>,
        layer: u32,
        hidden: &[f32],
    ) -> wasmtime::Result<Vec<f32>> {
        self.halo_policy_predictor()
            .call_score(store, layer, hidden)
    }
}

fn settings(settings: &[Setting]) -> Vec<types::Setting> {
    settings
        .iter()
        .map(|setting| types::Setting {
            key: setting.key.clone(),
            value: setting.value.clone(),
        })
        .collect()
}

fn tensors(tensors: &[Tensor]) -> Vec<types::Tensor> {
    tensors
        .iter()
        .map(|tensor| types::Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            values: tensor.values.clone(),
        })
        .collect()
}

impl From<&Model> for types::Model {
    fn from(model: &Model) -> Self {
        Self {
            layers: model.layers,
            width: model.width,
            groups: model.groups,
            group_bytes: model.group_bytes,
            attention_cost: model.attention_cost,
            head_cost: model.head_cost,
            importance: model.importance.clone(),
        }
    }
}

impl From<&Device> for wire::Device {
    fn from(device: &Device) -> Self {
        Self {
            name: device.name.clone(),
            leader: device.leader,
            speed: device.speed,
            memory: device.memory,
            delay_us: device.delay_us,
            spread_us: device.spread_us,
            loss: device.loss,
        }
    }
}

impl From<&Placement> for wire::Placement {
    fn from(placement: &Placement) -> Self {
        let standby = |s: &Standby| wire::Standby {
            layer: s.layer,
            group: s.group,
            device: s.device,
        };
        Self {
            owners: placement.owners.clone(),
            standbys: placement.standbys.iter().map(standby).collect(),
            token_us: placement.token_us,
        }
    }
}

impl From<wire::Placement> for Placement {
    fn from(placement: wire::Placement) -> Self {
        let standby = |s: wire::Standby| Standby {
            layer: s.layer,
            group: s.group,
            device: s.device,
        };
        Self {
            owners: placement.owners,
            standbys: placement.standbys.into_iter().map(standby).collect(),
            token_us: placement.token_us,
        }
    }
}

impl From<&Round> for wire::Round {
    fn from(round: &Round) -> Self {
        let debtor = |d: &Debtor| wire::Debtor {
            device: d.device,
            share: d.share,
            expected_us: d.expected_us,
            spread_us: d.spread_us,
            loss: d.loss,
        };
        Self {
            layer: round.layer,
            rows: round.rows,
            debtors: round.debtors.iter().map(debtor).collect(),
            concealed: round.concealed,
        }
    }
}

impl From<wire::Verdict> for Verdict {
    fn from(verdict: wire::Verdict) -> Self {
        let order = |o: wire::Order| Order {
            needed: o.needed,
            copies: o.copies,
        };
        Self {
            orders: verdict.orders.into_iter().map(order).collect(),
            patience_us: verdict.patience_us,
        }
    }
}
