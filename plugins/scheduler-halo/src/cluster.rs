//! The question of a placement: a model, and the devices to place it on.

use crate::bindings::exports::halo::policy::scheduler::{Device, Placement};
use crate::bindings::halo::policy::types::Model;

/// A model and devices, the leader first.
pub struct Cluster<'a> {
    pub model: &'a Model,
    pub devices: &'a [Device],
    /// How many groups each device has memory for; no more than all, so that sums stay small.
    pub room: Vec<u64>,
    /// Devices by how sure their partials are to arrive: the leader, then by loss, then by deviation.
    pub stable_first: Vec<usize>,
}

impl<'a> Cluster<'a> {
    pub fn new(model: &'a Model, devices: &'a [Device]) -> Self {
        let total = u64::from(model.layers) * u64::from(model.groups);
        let room = |device: &Device| {
            let room = device.memory.checked_div(model.group_bytes);
            room.unwrap_or(u64::MAX).min(total)
        };
        let mut stable_first: Vec<usize> = (0..devices.len()).collect();
        stable_first.sort_by(|&a, &b| {
            let (a, b) = (&devices[a], &devices[b]);
            b.leader
                .cmp(&a.leader)
                .then(a.loss.total_cmp(&b.loss))
                .then(a.spread_us.cmp(&b.spread_us))
                .then(a.delay_us.cmp(&b.delay_us))
        });
        Self {
            model,
            devices,
            room: devices.iter().map(room).collect(),
            stable_first,
        }
    }

    /// Groups in a layer.
    pub fn groups(&self) -> usize {
        self.model.groups as usize
    }

    pub fn layers(&self) -> usize {
        self.model.layers as usize
    }

    /// Calibrated importance of a group, by its index among all; the same for all if the package is not calibrated.
    pub fn importance(&self, index: usize) -> f32 {
        let importance = self.model.importance.get(index).copied();
        importance.unwrap_or(1.0 / self.groups() as f32)
    }

    /// Indices of groups, the most important first; in their own order if all are the same.
    pub fn ranked(&self, mut groups: Vec<usize>) -> Vec<usize> {
        groups.sort_by(|&a, &b| self.importance(b).total_cmp(&self.importance(a)));
        groups
    }

    /// Share of the importance that is expected to be lost on its first way, averaged over the layers.
    pub fn exposure(&self, owners: &[u32]) -> f64 {
        let lost = owners.iter().enumerate().map(|(index, &owner)| {
            f64::from(self.importance(index)) * f64::from(self.devices[owner as usize].loss)
        });
        lost.sum::<f64>() / self.layers().max(1) as f64
    }

    /// Whether a placement can be carried out here, its standbys included.
    pub fn fits(&self, placement: &Placement) -> bool {
        let mut left = self.room.clone();
        let standbys = placement.standbys.iter().map(|standby| &standby.device);
        let mut holders = placement.owners.iter().chain(standbys);
        placement.owners.len() == self.layers() * self.groups()
            && holders.all(|&device| {
                let left = left.get_mut(device as usize);
                left.is_some_and(|left| left.checked_sub(1).map(|less| *left = less).is_some())
            })
    }
}
