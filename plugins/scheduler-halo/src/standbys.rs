//! Which groups another device keeps loaded too.
//!
//! Of each worker, the least stable first, the most important groups, on the most stable device that has room.

use crate::bindings::exports::halo::policy::scheduler::Standby;
use crate::cluster::Cluster;

/// Standbys for this share of each worker's groups, as far as there is memory.
pub fn standbys(cluster: &Cluster, share: f32, owners: &[u32]) -> Vec<Standby> {
    let mut left = cluster.room.clone();
    for &owner in owners {
        left[owner as usize] = left[owner as usize].saturating_sub(1);
    }
    let mut standbys = Vec::new();
    let workers = cluster.stable_first.iter().skip(1).rev();
    for &worker in workers {
        let own = (0..owners.len()).filter(|&i| owners[i] == worker as u32);
        let precious = cluster.ranked(own.collect());
        let count = (precious.len() as f32 * share) as usize;
        for index in precious.into_iter().take(count) {
            let others = cluster.stable_first.iter().filter(|&&i| i != worker);
            let Some(&device) = others.into_iter().find(|&&i| left[i] > 0) else {
                break;
            };
            left[device] -= 1;
            standbys.push(Standby {
                layer: (index / cluster.groups()) as u32,
                group: (index % cluster.groups()) as u32,
                device: device as u32,
            });
        }
    }
    standbys
}
