use halo_fabric::NodeId;
use halo_policy::Placement;
use serde::{Deserialize, Serialize};

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
        }
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
}
