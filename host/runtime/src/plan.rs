use halo_fabric::{Block, NodeId};
use halo_policy::Placement;
use serde::{Deserialize, Serialize};

use crate::heads::{self, Counts};

/// A placement that is agreed on: every worker in it has loaded its groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Rises with every placement of a leader. Packets carry it, so that no round mixes two.
    pub epoch: u32,
    /// The devices, the leader first.
    pub devices: Vec<NodeId>,
    /// Which of them computes each group.
    pub placement: Placement,
    /// For each device and layer the groups it computes, ascending.
    pub groups: Vec<Vec<Vec<u32>>>,
    /// For each device and layer the KV heads that it computes, ascending. Empty if the leader does all attention.
    pub heads: Vec<Vec<Vec<u32>>>,
    /// The epoch since which they are where they are, with all that their KV caches have come to hold.
    pub heads_since: u32,
}

impl Plan {
    /// Sorts a placement's groups by device. `groups` is the number of groups in a layer.
    pub fn new(
        epoch: u32,
        devices: Vec<NodeId>,
        placement: Placement,
        layers: usize,
        groups: usize,
    ) -> Self {
        let mut sorted = vec![vec![Vec::new(); layers]; devices.len()];
        for (index, &owner) in placement.owners.iter().enumerate() {
            if let Some(device) = sorted.get_mut(owner as usize) {
                device[index / groups].push((index % groups) as u32);
            }
        }
        Self {
            epoch,
            devices,
            placement,
            groups: sorted,
            heads: Vec::new(),
            heads_since: epoch,
        }
    }

    /// Has devices compute so many KV heads of each layer, where they have been since an epoch.
    pub(crate) fn share_attention(&mut self, counts: &Counts, since: u32) {
        self.heads_since = since;
        self.heads = match counts.iter().skip(1).sum() {
            0 => Vec::new(),
            1.. => heads::by_device(counts, self.groups.first().map_or(0, Vec::len)),
        };
    }

    /// Whether workers have a part in the attention.
    pub fn shares_attention(&self) -> bool {
        !self.heads.is_empty()
    }

    /// The KV heads of a layer that a device computes, of a plan that shares attention.
    pub fn heads_of(&self, device: usize, layer: usize) -> &[u32] {
        let layers = self.heads.get(device).map_or(&[][..], |layers| layers);
        layers.get(layer).map_or(&[], |heads| heads)
    }

    /// What a device computes of a layer: its groups, or its KV heads.
    pub(crate) fn part(&self, device: usize, block: Block, layer: usize) -> &[u32] {
        match block {
            Block::FeedForward => &self.groups[device][layer],
            Block::Attention => self.heads_of(device, layer),
        }
    }

    /// How many of each layer's `kv_heads` each of some devices computes. `None` if others do.
    pub(crate) fn head_counts(&self, devices: &[NodeId], kv_heads: usize) -> Option<Counts> {
        let mut counts: Counts = devices
            .iter()
            .map(|node| {
                let device = self.devices.iter().position(|d| d == node);
                device.map_or(0, |device| self.heads_of(device, 0).len())
            })
            .collect();
        if !self.shares_attention() {
            *counts.first_mut()? = kv_heads;
        }
        (counts.iter().sum::<usize>() == kv_heads).then_some(counts)
    }

    /// Share of all groups that a device computes.
    pub fn share(&self, device: usize) -> f64 {
        let owned = self
            .placement
            .owners
            .iter()
            .filter(|&&o| o as usize == device)
            .count();
        owned as f64 / self.placement.owners.len().max(1) as f64
    }

    /// The groups of which a device keeps the weights at hand for another: one list per layer.
    pub fn standbys(&self, device: usize) -> Vec<Vec<u32>> {
        let mut lists = vec![Vec::new(); self.groups.first().map_or(0, Vec::len)];
        for standby in self
            .placement
            .standbys
            .iter()
            .filter(|s| s.device as usize == device)
        {
            if let Some(list) = lists.get_mut(standby.layer as usize) {
                list.push(standby.group);
            }
        }
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_sorted_by_device_and_layer() {
        let devices = ["a", "b"].map(|n| n.parse().unwrap()).to_vec();
        let standbys = vec![halo_policy::Standby {
            layer: 1,
            group: 2,
            device: 0,
        }];
        let placement = Placement {
            owners: vec![0, 1, 0, 1, 1, 1],
            standbys,
            token_us: 9,
        };
        let plan = Plan::new(4, devices, placement, 2, 3);
        assert_eq!(
            plan.groups,
            [[vec![0, 2], vec![]], [vec![1], vec![0, 1, 2]]]
        );
        assert!((plan.share(1) - 4.0 / 6.0).abs() < 1e-9);
        assert_eq!(plan.standbys(0), [vec![], vec![2]]);
        assert_eq!(plan.standbys(1), [Vec::<u32>::new(), vec![]]);
    }

    #[test]
    fn heads_are_counted_over_other_devices() {
        let nodes =
            |names: &[&str]| -> Vec<NodeId> { names.iter().map(|n| n.parse().unwrap()).collect() };
        let placement = Placement {
            owners: vec![0, 1, 0],
            ..Placement::default()
        };
        let mut plan = Plan::new(4, nodes(&["a", "b"]), placement, 1, 3);
        assert!(!plan.shares_attention() && plan.heads_of(0, 0).is_empty());
        assert_eq!(plan.head_counts(&nodes(&["a", "c"]), 4), Some(vec![4, 0]));
        plan.share_attention(&vec![1, 3], 2);
        assert!(plan.shares_attention());
        assert_eq!((plan.heads_of(1, 0), plan.heads_since), (&[1, 2, 3][..], 2));
        assert_eq!(
            plan.head_counts(&nodes(&["a", "aa", "b"]), 4),
            Some(vec![1, 0, 3])
        );
        assert_eq!(plan.head_counts(&nodes(&["a", "c"]), 4), None);
        plan.share_attention(&vec![4, 0], 5);
        assert!(!plan.shares_attention());
    }
}
