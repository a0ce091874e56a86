//! Which groups each device computes, once it is known how many.
//!
//! The leader takes the most important groups of a layer, then the workers by stability: the groups that matter least are on the
//! link that loses most.

use crate::cluster::Cluster;

/// Owners of all groups, whoever had them before.
pub fn fresh(cluster: &Cluster, shares: &[Vec<u32>]) -> Vec<u32> {
    let groups = cluster.groups();
    let mut owners = vec![0; groups * shares.len()];
    for (layer, counts) in shares.iter().enumerate() {
        let ranked = cluster.ranked((layer * groups..(layer + 1) * groups).collect());
        hand_out(cluster, counts, ranked, &mut owners);
    }
    owners
}

/// Owners of all groups, with as few changes as the shares allow.
pub fn gentle(cluster: &Cluster, shares: &[Vec<u32>], current: &[u32]) -> Vec<u32> {
    let groups = cluster.groups();
    let mut owners = current.to_vec();
    for (layer, counts) in shares.iter().enumerate() {
        let indices = layer * groups..(layer + 1) * groups;
        let mut lacking = counts.clone();
        let mut surplus = Vec::new();
        for &device in cluster.stable_first.iter() {
            let own = indices.clone().filter(|&i| current[i] == device as u32);
            let own = cluster.ranked(own.collect());
            let kept = own.len().min(lacking[device] as usize);
            lacking[device] -= kept as u32;
            surplus.push((device, own, kept));
        }
        let mut freed = Vec::new();
        for (device, own, kept) in surplus {
            // What goes to more stable devices is what matters most, and what goes to others what matters least.
            let more_stable = cluster.stable_first.iter().take_while(|&&d| d != device);
            let up: u32 = more_stable.map(|&d| lacking[d]).sum();
            let up = (up as usize).min(own.len() - kept);
            freed.extend_from_slice(&own[..up]);
            freed.extend_from_slice(&own[up + kept..]);
        }
        hand_out(cluster, &lacking, cluster.ranked(freed), &mut owners);
    }
    owners
}

/// Gives groups, the most important first, to the devices, the most stable first, each so many.
fn hand_out(cluster: &Cluster, counts: &[u32], ranked: Vec<usize>, owners: &mut [u32]) {
    let mut ranked = ranked.into_iter();
    for &device in &cluster.stable_first {
        for index in ranked.by_ref().take(counts[device] as usize) {
            owners[index] = device as u32;
        }
    }
}
