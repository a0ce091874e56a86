//! How long things are expected to take.
//!
//! A layer is the leader's attention, then one round of feed-forward groups in parallel. Attention comes before the round
//! and nothing can be done beside it, so it adds the same to every placement and does not change which one is best: in the
//! round itself, the leader starts level with the workers, without a way to travel.

use crate::bindings::exports::halo::policy::scheduler::Device;
use crate::bindings::halo::policy::types::Model;

/// Expected time, in seconds, until a device's partial of so many groups has arrived.
pub fn partial(device: &Device, groups: u32) -> f64 {
    if groups == 0 {
        return 0.0;
    }
    travel(device) + compute(f64::from(groups), device)
}

/// Expected time of one token with these owners.
pub fn token(model: &Model, devices: &[Device], owners: &[u32]) -> f64 {
    let Some(leader) = devices.first() else {
        return 0.0;
    };
    let attention = compute(f64::from(model.attention_cost), leader);
    let head = compute(f64::from(model.head_cost), leader);
    let rounds: f64 = owners
        .chunks(model.groups.max(1) as usize)
        .map(|layer| {
            let mut counts = vec![0; devices.len()];
            layer.iter().for_each(|&owner| counts[owner as usize] += 1);
            devices
                .iter()
                .zip(counts)
                .map(|(device, n)| partial(device, n))
                .fold(0.0, f64::max)
        })
        .sum();
    f64::from(model.layers) * attention + rounds + head
}

/// Expected way there and back. What is lost is asked for again after about a round trip and its spread, as often as it
/// takes: `loss + loss² + …` times.
fn travel(device: &Device) -> f64 {
    let delay = f64::from(device.delay_us);
    let spread = f64::from(device.spread_us);
    let loss = f64::from(device.loss).clamp(0.0, 0.99);
    let again = loss / (1.0 - loss);
    (delay + spread + again * (delay + 4.0 * spread)) * 1e-6
}

/// Time for so much work. A device without a speed never finishes.
fn compute(work: f64, device: &Device) -> f64 {
    match work {
        0.0 => 0.0,
        _ if device.speed > 0.0 => work / f64::from(device.speed),
        _ => f64::INFINITY,
    }
}
