//! How long things are expected to take.
//!
//! A layer is the leader's attention and then one round, which is over when the last of them is done:
//!
//! - each worker with groups, after `delay + spread + again * (delay + 4 * spread) + groups / speed`, where `again` is how
//!   often it is expected to have to be asked again: seldom, since of a lossy link most of what is lost is made up for;
//! - the leader, after `groups / speed` and what the workers cost it: `min(0.4 * delay, 200 us)` for each with groups.
//!
//! Attention comes before the round and nothing can be done beside it, so it adds the same to every placement.

use crate::bindings::exports::halo::policy::scheduler::Device;
use crate::cluster::Cluster;

/// Of the way to a worker and back, this share is the leader's own work, in which it cannot compute: it encodes, sends, and takes
/// in what comes back. Measured between hosts with a core each: 0.2 of 0.5 ms.
const OWN_SHARE: f64 = 0.4;

/// Longer ways are longer on the network, and not in the leader. Seconds.
const OWN_MOST: f64 = 200e-6;

/// Loading a group takes as long as computing it so often: it is read, and laid out for the products.
const LOADING: f64 = 64.0;

/// Expected time of one token with these owners, in seconds.
pub fn token(cluster: &Cluster, owners: &[u32]) -> f64 {
    let Some(leader) = cluster.devices.first() else {
        return 0.0;
    };
    let attention = compute(f64::from(cluster.model.attention_cost), leader);
    let head = compute(f64::from(cluster.model.head_cost), leader);
    let rounds: f64 = owners
        .chunks(cluster.groups().max(1))
        .map(|layer| {
            let mut counts = vec![0; cluster.devices.len()];
            layer.iter().for_each(|&owner| counts[owner as usize] += 1);
            round(cluster.devices, &counts)
        })
        .sum();
    cluster.layers() as f64 * attention + rounds + head
}

/// Expected time of a round in which each device computes so many groups, in seconds.
pub fn round(devices: &[Device], counts: &[u32]) -> f64 {
    let own = own_work(devices, |i| counts[i] > 0);
    let partials = devices.iter().zip(counts);
    partials
        .map(|(device, &count)| partial(device, count, own))
        .fold(0.0, f64::max)
}

/// What the workers that take part in a round cost the leader, in seconds.
pub fn own_work(devices: &[Device], takes_part: impl Fn(usize) -> bool) -> f64 {
    let workers = (1..devices.len()).filter(|&i| takes_part(i));
    workers
        .map(|i| (OWN_SHARE * f64::from(devices[i].delay_us) * 1e-6).min(OWN_MOST))
        .sum()
}

/// Expected time until a device's partial of so many groups is there, with so much other work for the leader. Seconds.
pub fn partial(device: &Device, groups: u32, own_work: f64) -> f64 {
    let begin = match (device.leader, groups) {
        (true, _) => own_work,
        (false, 0) => 0.0,
        (false, _) => travel(device),
    };
    begin + compute(f64::from(groups), device)
}

/// Time until every device has loaded the groups that it has in `after` and had not in `before`, in seconds.
pub fn loading(cluster: &Cluster, before: &[u32], after: &[u32]) -> f64 {
    let mut moved = vec![0u32; cluster.devices.len()];
    for (_, &owner) in before.iter().zip(after).filter(|(b, a)| b != a) {
        moved[owner as usize] += 1;
    }
    let each = cluster.devices.iter().zip(moved);
    each.map(|(device, moved)| compute(f64::from(moved) * LOADING, device))
        .fold(0.0, f64::max)
}

/// Over links that lose more than this there and back, everything is sent twice. As `admit` does by default.
const TWICE: f64 = 0.12;

/// Expected way there and back. What is lost and not made up for is asked for again after about a round trip and its spread, as often
/// as it takes: `lost + lost² + …` times.
fn travel(device: &Device) -> f64 {
    let delay = f64::from(device.delay_us);
    let spread = f64::from(device.spread_us);
    let lost = lost(f64::from(device.loss).clamp(0.0, 0.99));
    let again = lost / (1.0 - lost);
    (delay + spread + again * (delay + 4.0 * spread)) * 1e-6
}

/// Share of answers that have to be asked for again where packets are lost at this share there and back. Each way goes a packet with the
/// parity of the others, and so any one that is lost is made up for; of three packets, two are lost together at three times the square
/// of a way's share.
fn lost(loss: f64) -> f64 {
    let once = if loss > TWICE {
        loss * loss / 2.0
    } else {
        loss
    };
    (1.5 * once * once).min(once)
}

/// Time for so much work. A device without a speed never finishes.
fn compute(work: f64, device: &Device) -> f64 {
    match work {
        0.0 => 0.0,
        _ if device.speed > 0.0 => work / f64::from(device.speed),
        _ => f64::INFINITY,
    }
}
