//! Questions made up at random, and what is asked of the plans for them.

mod exact;
mod properties;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::bindings::exports::halo::policy::scheduler::{Device, Placement};
use crate::bindings::halo::policy::types::Model;
use crate::cluster::Cluster;
use crate::place::place;
use crate::settings::Settings;

/// A model, and devices that have memory for it together, though perhaps only just.
#[derive(Debug, Clone)]
struct Question {
    model: Model,
    devices: Vec<Device>,
}

impl Question {
    fn place(&self, current: Option<Placement>) -> Placement {
        place(&Settings::default(), &self.model, &self.devices, current).unwrap()
    }

    fn cluster(&self) -> Cluster<'_> {
        Cluster::new(&self.model, &self.devices)
    }
}

/// Questions of up to so many layers, groups and devices. Groups take from 0.06 to 1 ms, and ways up to 4 ms.
fn question(layers: u32, groups: u32, devices: usize) -> impl Strategy<Value = Question> {
    let sizes = (1..=layers, 1..=groups, 1..=devices);
    sizes.prop_flat_map(|(layers, groups, count)| {
        let total = u64::from(layers * groups);
        let cost = 0.0f32..8.0;
        let importance = vec(0.0f32..1.0, total as usize);
        let lucky = 0..count;
        (vec(device(total), count), cost, importance, lucky).prop_map(
            move |(mut devices, cost, importance, lucky)| {
                let leader = &mut devices[0];
                (leader.leader, leader.loss) = (true, 0.0);
                (leader.delay_us, leader.spread_us) = (0, 0);
                let memory: u64 = devices.iter().map(|device| device.memory).sum();
                devices[lucky].memory += total.saturating_sub(memory);
                let model = Model {
                    layers,
                    width: 8,
                    groups,
                    group_bytes: 1,
                    attention_cost: cost,
                    head_cost: cost,
                    importance,
                };
                Question { model, devices }
            },
        )
    })
}

fn device(most_memory: u64) -> impl Strategy<Value = Device> {
    let speed = (0.0f32..4.0).prop_map(|doublings| 1000.0 * doublings.exp2());
    let link = (0u32..3000, 0u32..500, 0.0f32..0.3);
    (speed, 0..=most_memory, link).prop_map(|(speed, memory, (delay_us, spread_us, loss))| Device {
        name: "device".into(),
        leader: false,
        speed,
        memory,
        delay_us,
        spread_us,
        loss,
    })
}
