//! A placement as people want to know it: who does how much, how long that is expected to take, and why.

use halo_fabric::NodeId;
use halo_policy::{Device, Model};
use serde::{Deserialize, Serialize};

use crate::plan::Plan;

/// What a leader has planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The placement's number.
    pub epoch: u32,
    /// The scheduler in force.
    pub scheduler: String,
    /// Expected time of a token, in microseconds.
    pub token_us: u32,
    /// Expected time of a round, in microseconds, averaged over the layers.
    pub round_us: f64,
    /// The devices, the leader first.
    pub devices: Vec<PlannedDevice>,
}

/// A device's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedDevice {
    /// Its name.
    pub node: NodeId,
    /// Groups that it computes, in all layers.
    pub groups: u64,
    /// KV heads of each layer that it computes.
    #[serde(default)]
    pub heads: usize,
    /// The groups' share of all groups.
    pub share: f64,
    /// The groups' share of all importance.
    pub importance: f64,
    /// Groups that it computes in a second.
    pub speed: f32,
    /// When its part of a round is expected, in microseconds, averaged over the layers in which it has one.
    pub part_us: f64,
    /// The way there and back, in microseconds: of a round without computing.
    pub delay_us: u32,
    /// Typical deviation of that, in microseconds.
    pub spread_us: u32,
    /// Share of packets lost there and back.
    pub loss: f32,
    /// Bytes of its groups, of those it stands by for, and of a worker's heads with their keys and values.
    pub memory_used: u64,
    /// Bytes it has for them.
    pub memory: u64,
    /// Why it has as much to do as it has.
    pub why: String,
}

impl Planned {
    /// Describes a plan over these devices, which are the plan's, and of which each computes so many KV heads of `head_bytes` each.
    pub(crate) fn new(
        plan: &Plan,
        devices: &[Device],
        model: &Model,
        scheduler: String,
        heads: &[usize],
        head_bytes: u64,
    ) -> Self {
        let parts = |device: usize| {
            let layers = plan.groups[device].iter();
            layers.map(move |groups| part_us(&devices[device], groups.len()))
        };
        let layers = model.layers.max(1);
        let mut rounds = vec![0f64; layers as usize];
        for device in 0..devices.len() {
            for (round, part) in rounds.iter_mut().zip(parts(device)) {
                *round = round.max(part);
            }
        }
        let round_us = rounds.iter().sum::<f64>() / f64::from(layers);
        let total = model.total_groups().max(1) as f64;
        let importance = |index: usize| match model.importance.get(index) {
            Some(importance) => f64::from(*importance) / f64::from(layers),
            None => 1.0 / total,
        };
        let owners = &plan.placement.owners;
        let each = devices.iter().enumerate().map(|(index, device)| {
            let own = (0..owners.len()).filter(|&i| owners[i] as usize == index);
            let groups = own.clone().count() as u64;
            let standbys = plan.placement.standbys.iter();
            let standbys = standbys.filter(|s| s.device as usize == index).count() as u64;
            let heads = heads.get(index).copied().unwrap_or_default();
            // The leader has memory for attention beside that for groups.
            let of_heads = if index > 0 { heads as u64 } else { 0 };
            let busy: Vec<f64> = parts(index).filter(|part| *part > 0.0).collect();
            let mut planned = PlannedDevice {
                node: plan.devices[index].clone(),
                groups,
                heads,
                share: groups as f64 / total,
                // Not `sum`, which of nothing is -0.
                importance: own.map(importance).fold(0.0, std::ops::Add::add),
                speed: device.speed,
                part_us: busy.iter().fold(0.0, std::ops::Add::add) / busy.len().max(1) as f64,
                delay_us: device.delay_us,
                spread_us: device.spread_us,
                loss: device.loss,
                memory_used: (groups + standbys)
                    .saturating_mul(model.group_bytes)
                    .saturating_add(of_heads.saturating_mul(head_bytes)),
                memory: device.memory,
                why: String::new(),
            };
            planned.why = if index == 0 && plan.shares_attention() {
                "leads: its part of attention, and the output head besides".into()
            } else {
                planned.why(index == 0, model.group_bytes, round_us)
            };
            planned
        });
        Self {
            epoch: plan.epoch,
            token_us: plan.placement.token_us,
            round_us,
            devices: each.collect(),
            scheduler,
        }
    }
}

impl PlannedDevice {
    fn why(&self, leads: bool, group_bytes: u64, round_us: f64) -> String {
        let way = f64::from(self.delay_us) + f64::from(self.spread_us);
        match self.groups {
            0 if leads => {
                "leads: attention and the output head; the workers have the groups".into()
            }
            _ if leads => "leads: attention and the output head besides".into(),
            0 if self.heads > 0 => "has a part of attention, and no groups".into(),
            0 if self.memory < group_bytes => "left out: it has no memory for a group".into(),
            0 if self.speed <= 0.0 => "left out: it computes nothing".into(),
            0 if way >= round_us => format!(
                "left out: its way of {} is longer than a round without it, {}",
                time(way),
                time(round_us)
            ),
            0 => format!(
                "left out: with its way of {}, a round of {} would not be shorter",
                time(way),
                time(round_us)
            ),
            _ if self.memory - self.memory_used.min(self.memory) < group_bytes => {
                "as much as its memory holds".into()
            }
            _ if self.loss >= 0.01 && self.importance < 0.9 * self.share => format!(
                "done after {}, {} of it on the way; has what matters less, for {:.0} % are lost",
                time(self.part_us),
                time(way),
                self.loss * 100.0
            ),
            _ => format!(
                "done after {}, {} of it on the way",
                time(self.part_us),
                time(way)
            ),
        }
    }
}

/// When a device's part of a round is expected.
fn part_us(device: &Device, groups: usize) -> f64 {
    if groups == 0 {
        return 0.0;
    }
    let way = f64::from(device.delay_us) + f64::from(device.spread_us);
    way + groups as f64 / f64::from(device.speed) * 1e6
}

fn time(micros: f64) -> String {
    format!("{:.2} ms", micros / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use halo_policy::Placement;

    #[test]
    fn each_device_is_accounted_for() {
        let model = Model {
            layers: 2,
            groups: 4,
            group_bytes: 10,
            importance: vec![0.4, 0.3, 0.2, 0.1, 0.4, 0.3, 0.2, 0.1],
            ..Model::default()
        };
        let device = |delay_us, memory| Device {
            leader: delay_us == 0,
            speed: 10_000.0,
            memory,
            delay_us,
            ..Device::default()
        };
        let lossy = Device {
            loss: 0.2,
            ..device(50, 1000)
        };
        let devices = [
            device(0, 1000),
            lossy,
            device(40, 10),
            device(12_000, 1000),
            device(100, 1000),
            device(100, 9),
        ];
        let names = ["a", "b", "c", "d", "e", "f"].map(|name| name.parse().unwrap());
        let placement = Placement {
            owners: vec![0, 0, 1, 1, 0, 0, 1, 2],
            token_us: 700,
            ..Placement::default()
        };
        let plan = Plan::new(3, names.to_vec(), placement, 2, 4);
        let planned = Planned::new(&plan, &devices, &model, "test".into(), &[3, 1], 7);
        // Two groups of 100 us, and the way, in the first layer; in the second the leader is the last.
        assert!((planned.round_us - 225.0).abs() < 1e-3, "{planned:?}");
        let b = &planned.devices[1];
        assert_eq!((b.groups, b.heads, b.memory_used), (3, 1, 37));
        assert!((b.importance - 0.25).abs() < 1e-6 && (b.share - 0.375).abs() < 1e-9);
        assert!((b.part_us - 200.0).abs() < 1e-3, "{b:?}");
        let why: Vec<&str> = planned.devices.iter().map(|d| d.why.as_str()).collect();
        assert_eq!(
            why,
            [
                "leads: attention and the output head besides",
                "done after 0.20 ms, 0.05 ms of it on the way; has what matters less, for 20 % are lost",
                "as much as its memory holds",
                "left out: its way of 12.00 ms is longer than a round without it, 0.23 ms",
                "left out: with its way of 0.10 ms, a round of 0.23 ms would not be shorter",
                "left out: it has no memory for a group",
            ]
        );
    }
}
