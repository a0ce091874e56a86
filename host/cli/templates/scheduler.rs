//! `{name}`: a scheduler for HALO. `wit/policy.wit` is the contract and explains every field.

mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "scheduler-policy", path: "wit" });
    use super::Scheduler;
    export!(Scheduler);
}

use bindings::exports::halo::policy::scheduler::{Device, Guest, Order, Placement, Round, Verdict};
use bindings::halo::policy::types::{Model, Setting};

struct Scheduler;

impl Guest for Scheduler {
    fn init(settings: Vec<Setting>) -> Result<(), String> {
        match settings.first() {
            None => Ok(()),
            Some(setting) => Err(format!("there is no setting {:?}", setting.key)),
        }
    }

    fn place(model: Model, devices: Vec<Device>, _current: Option<Placement>) -> Result<Placement, String> {
        // Each group to the first device that has memory for it, the leader before all others.
        let total = (model.layers * model.groups) as usize;
        let mut owners = Vec::with_capacity(total);
        for (index, device) in devices.iter().enumerate() {
            let room = (device.memory / model.group_bytes) as usize;
            let more = room.min(total - owners.len());
            owners.extend(std::iter::repeat_n(index as u32, more));
        }
        if owners.len() < total {
            return Err(format!("the devices have memory for {} of {total} groups", owners.len()));
        }
        Ok(Placement { owners, standbys: Vec::new(), token_us: 0 })
    }

    fn admit(round: Round) -> Verdict {
        // Everybody is waited for, and every packet is sent once.
        let orders = round.debtors.iter().map(|_| Order { needed: true, copies: 1 });
        Verdict { orders: orders.collect(), patience_us: 0 }
    }
}
