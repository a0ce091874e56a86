//! Which groups devices get, for finding out what it is worth to know how much they matter.

use halo_policy::{Device, Model, Placement};
use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};

/// Which of a layer's groups each device gets. How many is always the scheduler's word, so that nothing else differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrangement {
    /// Those that the scheduler says.
    #[default]
    Scheduled,
    /// Any.
    Blind,
    /// The more they matter, the more packets their device loses.
    Worst,
}

impl Arrangement {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Scheduled, Self::Blind, Self::Worst];

    /// Arranges a scheduler's placement anew. The same placement, or one with the same numbers of groups, is always arranged
    /// alike.
    pub fn apply(self, placement: &mut Placement, model: &Model, devices: &[Device], seed: u64) {
        if self == Self::Scheduled {
            return;
        }
        // Standbys are for groups that are others now.
        placement.standbys.clear();
        let mut unstable_first: Vec<usize> = (0..devices.len()).collect();
        // The leader loses nothing; of the others that lose as much as each other, the last counts as the worst.
        unstable_first
            .sort_by(|&a, &b| devices[b].loss.total_cmp(&devices[a].loss).then(b.cmp(&a)));
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let layers = placement.owners.chunks_mut((model.groups as usize).max(1));
        for (layer, owners) in layers.enumerate() {
            let mut groups: Vec<usize> = (0..owners.len()).collect();
            match (self, model.layer_importance(layer as u32)) {
                (Self::Worst, Some(importance)) => {
                    groups.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]));
                }
                _ => groups.shuffle(&mut random),
            }
            let mut groups = groups.into_iter();
            let before = owners.to_vec();
            for &device in &unstable_first {
                let count = before.iter().filter(|&&o| o as usize == device).count();
                for group in groups.by_ref().take(count) {
                    owners[group] = device as u32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(arrangement: Arrangement, seed: u64) -> Placement {
        let model = Model {
            layers: 2,
            groups: 4,
            importance: vec![0.4, 0.1, 0.2, 0.3, 0.25, 0.25, 0.2, 0.3],
            ..Model::default()
        };
        let devices = [0.0, 0.2, 0.0].map(|loss| Device {
            loss,
            ..Device::default()
        });
        let mut placement = Placement {
            owners: vec![0, 1, 0, 2, 2, 2, 1, 0],
            ..Placement::default()
        };
        arrangement.apply(&mut placement, &model, &devices, seed);
        let again = placement.clone();
        arrangement.apply(&mut placement, &model, &devices, seed);
        assert_eq!(placement, again, "what is arranged stays so");
        placement
    }

    #[test]
    fn devices_keep_their_numbers_of_groups() {
        let scheduled = arranged(Arrangement::Scheduled, 0).owners;
        assert_eq!(scheduled, [0, 1, 0, 2, 2, 2, 1, 0]);
        // Device 1 loses packets, then 2 comes as the last, then the leader.
        assert_eq!(
            arranged(Arrangement::Worst, 0).owners,
            [1, 0, 0, 2, 2, 2, 0, 1]
        );
        let blind: Vec<_> = (0..20)
            .map(|seed| arranged(Arrangement::Blind, seed).owners)
            .collect();
        assert!(blind.iter().any(|owners| *owners != blind[0]));
        for owners in blind {
            for layer in 0..2 {
                let mut counts = [0; 3];
                owners[4 * layer..][..4]
                    .iter()
                    .for_each(|&o| counts[o as usize] += 1);
                assert_eq!(counts, [[2, 1, 1], [1, 1, 2]][layer]);
            }
        }
    }
}
