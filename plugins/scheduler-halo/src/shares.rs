//! How many groups of each layer each device computes.
//!
//! Within a layer, each group goes to the device that would have it done first, counting its way there and back and the groups
//! it has already. That minimises the time of the slowest. A worker that makes the round longer than it is without it gets none.
//!
//! Where memory does not bind, all layers are alike. Where it does, a device's memory is spread evenly over the layers that it
//! takes part in, and these may be fewer than all: a device far away with little memory costs the same way in every layer. How
//! many they are for each worker is searched for: from several beginnings, one worker at a time, for as long as the token gets faster.

use crate::cluster::Cluster;
use crate::time;

/// Plans that are tried at most; and fewer for a large cluster, so that it is placed in time: as many as there are groups and
/// devices to choose among, this often.
const TRIES: usize = 400;
const CHOICES: usize = 1 << 21;

/// Workers, those with the fewest groups, of which it is tried whether the round is shorter without one.
const DISPENSABLE: usize = 4;

/// The groups of each device in each layer, or why there is no memory for them.
pub fn shares(cluster: &Cluster) -> Result<Vec<Vec<u32>>, String> {
    let (layers, groups) = (cluster.layers(), cluster.groups());
    let (total, room) = (layers * groups, cluster.room.iter().sum::<u64>());
    if room < total as u64 {
        return Err(format!(
            "the devices have memory for {room} of {total} groups"
        ));
    }
    let everything = vec![groups as u64; cluster.devices.len()];
    let ideal = fill(cluster, &everything).ok_or("there is no device")?;
    let mut rooms = cluster.room.iter().zip(&ideal);
    if rooms.all(|(&room, &count)| room >= u64::from(count) * layers as u64) {
        return Ok(vec![ideal; layers]);
    }
    search(cluster, &ideal).ok_or_else(|| "the devices' memory ended early".into())
}

/// A plan, and how long its rounds take together.
struct Plan {
    shares: Vec<Vec<u32>>,
    seconds: f64,
}

impl Plan {
    /// By more than rounding.
    fn is_shorter(&self, than: Option<&Self>) -> bool {
        than.is_none_or(|than| self.seconds < than.seconds * (1.0 - 1e-9))
    }
}

/// The best plan found, from several beginnings, by changing the number of layers that one worker takes part in.
fn search(cluster: &Cluster, ideal: &[u32]) -> Option<Vec<Vec<u32>>> {
    let candidates = |device| candidates(cluster.layers(), cluster.room[device], ideal[device]);
    let choices = cluster.layers() * cluster.groups() * ideal.len();
    let mut tries = TRIES.min(CHOICES / choices);
    let mut best: Option<Plan> = None;
    for all in candidates(0).into_iter().rev() {
        let mut takes_part = vec![all; ideal.len()];
        takes_part[0] = cluster.layers();
        let mut plan = spread(cluster, &takes_part);
        loop {
            let changes = (1..ideal.len()).flat_map(|device| {
                candidates(device)
                    .into_iter()
                    .map(move |count| (device, count))
            });
            let mut better = None;
            for (device, count) in changes.take(tries) {
                tries -= 1;
                let mut changed = takes_part.clone();
                changed[device] = count;
                let tried = spread(cluster, &changed);
                if tried
                    .as_ref()
                    .is_some_and(|tried| tried.is_shorter(plan.as_ref()))
                {
                    plan = tried;
                    better = Some(changed);
                }
            }
            match better {
                Some(changed) => takes_part = changed,
                None => break,
            }
        }
        if plan
            .as_ref()
            .is_some_and(|plan| plan.is_shorter(best.as_ref()))
        {
            best = plan;
        }
    }
    best.map(|plan| plan.shares)
}

/// Numbers of layers that a device could take part in: those in which its memory lasts for its ideal share, and round ones.
fn candidates(layers: usize, room: u64, ideal: u32) -> Vec<usize> {
    if layers <= 8 {
        return (0..=layers).collect();
    }
    let lasts = (room / u64::from(ideal.max(1))) as usize;
    let mut candidates: Vec<usize> = (0..=4).map(|quarter| layers * quarter / 4).collect();
    candidates.extend([lasts.min(layers), (lasts + 1).min(layers)]);
    candidates.sort_unstable();
    candidates.dedup();
    candidates
}

/// The plan in which each device takes part in so many layers, the last ones. Layers with fewer devices come first, since they
/// have less choice.
fn spread(cluster: &Cluster, takes_part: &[usize]) -> Option<Plan> {
    let layers = cluster.layers();
    let mut left = cluster.room.clone();
    let (mut shares, mut seconds) = (Vec::<Vec<u32>>::with_capacity(layers), 0.0);
    let mut last: Option<(Vec<u64>, f64)> = None;
    for layer in 0..layers {
        let to_come = layers - layer;
        let limit = |part: &dyn Fn(u64) -> u64| -> Vec<u64> {
            let limits = left.iter().zip(takes_part);
            limits
                .map(|(&left, &takes)| if takes >= to_come { part(left) } else { 0 })
                .collect()
        };
        let limits = limit(&|left| left.div_ceil(to_come as u64));
        match (&last, shares.last()) {
            (Some((same, round)), Some(counts)) if *same == limits => {
                seconds += round;
                shares.push(counts.clone());
            }
            _ => {
                let counts =
                    fill(cluster, &limits).or_else(|| fill(cluster, &limit(&|left| left)))?;
                let round = time::round(cluster.devices, &counts);
                seconds += round;
                shares.push(counts);
                last = Some((limits, round));
            }
        }
        for (left, &count) in left.iter_mut().zip(shares.last()?) {
            *left = left.checked_sub(u64::from(count))?;
        }
    }
    Some(Plan { shares, seconds })
}

/// The groups of each device in one layer, in the shortest time and within these limits. `None` if those are too tight.
fn fill(cluster: &Cluster, limits: &[u64]) -> Option<Vec<u32>> {
    let round = |counts: &[u32]| time::round(cluster.devices, counts);
    let mut limits = limits.to_vec();
    let mut counts = share_out(cluster, &limits)?;
    loop {
        // Who gets nothing costs the leader nothing, which leaves it time for more.
        for (limit, &count) in limits.iter_mut().zip(&counts).skip(1) {
            if count == 0 {
                *limit = 0;
            }
        }
        let mut workers: Vec<usize> = (1..limits.len()).filter(|&i| limits[i] > 0).collect();
        workers.sort_by_key(|&i| counts[i]);
        let without = |&worker: &usize| {
            let mut fewer = limits.clone();
            fewer[worker] = 0;
            share_out(cluster, &fewer)
        };
        let all = share_out(cluster, &limits);
        let fewer = workers.iter().take(DISPENSABLE).filter_map(without);
        let best = all
            .into_iter()
            .chain(fewer)
            .min_by(|a, b| round(a).total_cmp(&round(b)))?;
        if round(&best) >= round(&counts) {
            break;
        }
        counts = best;
    }
    let mut alone = vec![0; counts.len()];
    alone[0] = cluster.model.groups;
    let is_better = limits[0] >= u64::from(alone[0]) && round(&alone) <= round(&counts);
    Some(if is_better { alone } else { counts })
}

/// Gives each group to the device that would have it done first.
fn share_out(cluster: &Cluster, limits: &[u64]) -> Option<Vec<u32>> {
    let own_work = time::own_work(cluster.devices, |i| limits[i] > 0);
    let finish = |i: usize, count: u32| time::partial(&cluster.devices[i], count, own_work);
    let mut counts = vec![0u32; limits.len()];
    // When each would be done with one more.
    let mut next: Vec<f64> = (0..limits.len()).map(|i| finish(i, 1)).collect();
    for _ in 0..cluster.groups() {
        let open = cluster.stable_first.iter().copied();
        let soonest = open
            .filter(|&i| u64::from(counts[i]) < limits[i])
            .min_by(|&a, &b| next[a].total_cmp(&next[b]))?;
        counts[soonest] += 1;
        next[soonest] = finish(soonest, counts[soonest] + 1);
    }
    Some(counts)
}
