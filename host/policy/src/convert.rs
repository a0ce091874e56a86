//! Between the crate's own types and those that `bindgen!` makes.

use crate::bindings::scheduler::{exports::halo::policy::scheduler as wire, halo::policy::types};
use crate::{Debtor, Device, Model, Order, Placement, Round, Setting, Standby, Tensor, Verdict};

pub(crate) fn settings(settings: &[Setting]) -> Vec<types::Setting> {
    settings
        .iter()
        .map(|setting| types::Setting {
            key: setting.key.clone(),
            value: setting.value.clone(),
        })
        .collect()
}

pub(crate) fn tensors(tensors: &[Tensor]) -> Vec<types::Tensor> {
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
