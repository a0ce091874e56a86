//! The built-in rules: what is done while no policy is in force, and whenever one fails.
//!
//! They are plain on purpose. They cannot fail: whatever they are asked, they answer something that can be carried out.

use crate::{Device, Model, Order, Placement, Round, Verdict};

/// The name under which the built-in rules appear where a policy's name would.
pub const NAME: &str = "built-in";

/// Groups in proportion to the devices' speeds as far as their memory allows, the leader's attention and head counted as
/// work, each device's part of a layer contiguous.
///
/// What fits nowhere stays with the leader, even past its memory, since it has every group on disk. Devices without a
/// positive speed get nothing.
pub fn place(model: &Model, devices: &[Device]) -> Placement {
    let groups = model.groups as usize;
    let layers = model.layers as usize;
    let mut left: Vec<u64> = devices.iter().map(|device| room(model, device)).collect();
    let quotas = quotas(model, devices, &left);
    let mut given = vec![0u64; devices.len()];
    let mut owners = Vec::with_capacity(model.total_groups());
    for layer in 0..layers {
        let mut counts = vec![0usize; devices.len()];
        for _ in 0..groups {
            // Whoever is furthest behind its quota so far; fractions even out over the layers.
            let behind = |i: usize| quotas[i] * (layer + 1) as f64 - given[i] as f64;
            let next = (0..devices.len())
                .filter(|&i| left[i] > 0 && quotas[i] > 0.0)
                .max_by(|&a, &b| behind(a).total_cmp(&behind(b)).then(b.cmp(&a)));
            let Some(next) = next else { break };
            left[next] -= 1;
            given[next] += 1;
            counts[next] += 1;
        }
        let rest = groups - counts.iter().sum::<usize>();
        owners.extend(std::iter::repeat_n(0, rest));
        for (device, &count) in counts.iter().enumerate() {
            owners.extend(std::iter::repeat_n(device as u32, count));
        }
    }
    let token_us = token_us(model, devices, &owners);
    Placement {
        owners,
        standbys: Vec::new(),
        token_us,
    }
}

/// Everybody is needed, everything is sent once.
pub fn admit(round: &Round) -> Verdict {
    let longest = |d: &crate::Debtor| d.expected_us.saturating_add(d.spread_us.saturating_mul(4));
    Verdict {
        orders: vec![
            Order {
                needed: true,
                copies: 1
            };
            round.debtors.len()
        ],
        patience_us: round.debtors.iter().map(longest).max().unwrap_or(0),
    }
}

/// The calibrated mean importance of a layer's groups, or the same for all; adds up to 1.
pub fn score(model: &Model, layer: u32, scores: &mut Vec<f32>) {
    scores.clear();
    match model.layer_importance(layer) {
        Some(importance) => scores.extend_from_slice(importance),
        None => scores.resize(model.groups as usize, 1.0),
    }
    normalise(scores);
}

/// Scales `scores` so that they add up to 1; the same for all if they cannot be. They must be finite and non-negative.
pub(crate) fn normalise(scores: &mut [f32]) {
    let sum: f64 = scores.iter().map(|&score| f64::from(score)).sum();
    let count = scores.len() as f32;
    if sum > 0.0 && sum.is_finite() {
        scores
            .iter_mut()
            .for_each(|score| *score = (f64::from(*score) / sum) as f32);
    } else {
        scores.fill(1.0 / count);
    }
}

/// How many groups a device has memory for.
fn room(model: &Model, device: &Device) -> u64 {
    device
        .memory
        .checked_div(model.group_bytes)
        .unwrap_or(u64::MAX)
}

/// A speed that can be divided by and added up.
fn speed(device: &Device) -> f64 {
    let speed = f64::from(device.speed);
    if speed.is_finite() && speed > 0.0 {
        speed
    } else {
        0.0
    }
}

/// The leader's own work for one layer besides groups, in groups.
fn own_work(model: &Model) -> f64 {
    let own = f64::from(model.attention_cost)
        + f64::from(model.head_cost) / f64::from(model.layers.max(1));
    if own.is_finite() { own.max(0.0) } else { 0.0 }
}

/// Groups that each device should have of one layer, on average: in proportion to speed, then, as long as one is past its
/// memory or would have less than nothing, again without it.
fn quotas(model: &Model, devices: &[Device], room: &[u64]) -> Vec<f64> {
    let layers = f64::from(model.layers.max(1));
    let caps: Vec<f64> = room.iter().map(|&room| room as f64 / layers).collect();
    let mut fixed: Vec<Option<f64>> = devices
        .iter()
        .map(|d| (speed(d) == 0.0).then_some(0.0))
        .collect();
    let own = |i: usize| if i == 0 { own_work(model) } else { 0.0 };
    loop {
        let free: Vec<usize> = (0..devices.len()).filter(|&i| fixed[i].is_none()).collect();
        let taken: f64 = fixed.iter().flatten().sum();
        let work =
            (f64::from(model.groups) - taken).max(0.0) + free.iter().map(|&i| own(i)).sum::<f64>();
        let total: f64 = free.iter().map(|&i| speed(&devices[i])).sum();
        let quota = |i: usize| {
            if total > 0.0 {
                work * speed(&devices[i]) / total - own(i)
            } else {
                0.0
            }
        };
        // The one furthest out of bounds is settled first, since that changes what the others get.
        let excess = |i: usize| (quota(i) - caps[i]).max(-quota(i));
        let worst = free
            .iter()
            .copied()
            .max_by(|&a, &b| excess(a).total_cmp(&excess(b)));
        match worst {
            Some(i) if excess(i) > 0.0 => fixed[i] = Some(quota(i).clamp(0.0, caps[i])),
            _ => {
                return (0..devices.len())
                    .map(|i| fixed[i].unwrap_or_else(|| quota(i)))
                    .collect();
            }
        }
    }
}

/// Expected time of one token: each layer takes as long as its slowest device with its round trip.
fn token_us(model: &Model, devices: &[Device], owners: &[u32]) -> u32 {
    let Some(leader) = devices.first() else {
        return 0;
    };
    let seconds = |work: f64, device: &Device| {
        if work > 0.0 {
            work / speed(device)
        } else {
            0.0
        }
    };
    let mut total = seconds(f64::from(model.head_cost), leader);
    for layer in owners.chunks(model.groups.max(1) as usize) {
        let mut counts = vec![0u32; devices.len()];
        for &owner in layer {
            if let Some(count) = counts.get_mut(owner as usize) {
                *count += 1;
            }
        }
        let slowest = devices
            .iter()
            .zip(&counts)
            .skip(1)
            .filter(|(_, count)| **count > 0)
            .map(|(device, &count)| {
                f64::from(device.delay_us) * 1e-6 + seconds(f64::from(count), device)
            });
        let groups = slowest.fold(seconds(f64::from(counts[0]), leader), f64::max);
        total += groups + seconds(f64::from(model.attention_cost), leader);
    }
    // A float too large, or not a number, saturates here.
    (total * 1e6).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    fn model() -> Model {
        Model {
            layers: 3,
            width: 8,
            groups: 10,
            group_bytes: 1,
            attention_cost: 2.0,
            head_cost: 3.0,
            ..Model::default()
        }
    }

    fn device(leader: bool, speed: f32, memory: u64) -> Device {
        Device {
            leader,
            speed,
            memory,
            ..Device::default()
        }
    }

    fn counts(placement: &Placement, devices: usize) -> Vec<usize> {
        (0..devices)
            .map(|d| {
                placement
                    .owners
                    .iter()
                    .filter(|&&owner| owner as usize == d)
                    .count()
            })
            .collect()
    }

    #[test]
    fn the_leaders_own_work_counts() {
        // 10 groups and 3 of its own a layer: 6.5 each, so 3.5 groups for the leader.
        let devices = [device(true, 1.0, 100), device(false, 1.0, 100)];
        let placement = place(&model(), &devices);
        assert_eq!(check::placement(&model(), &devices, &placement), Ok(()));
        assert!(
            matches!(counts(&placement, 2)[..], [10 | 11, 19 | 20]),
            "{placement:?}"
        );
        assert!(
            placement.owners.chunks(10).all(|layer| layer.is_sorted()),
            "{placement:?}"
        );
    }

    #[test]
    fn memory_is_respected_while_there_is_enough() {
        let devices = [
            device(true, 5.0, 8),
            device(false, 1.0, 12),
            device(false, 100.0, 10),
        ];
        let placement = place(&model(), &devices);
        assert_eq!(check::placement(&model(), &devices, &placement), Ok(()));
        assert_eq!(counts(&placement, 3), [8, 12, 10]);
    }

    #[test]
    fn what_fits_nowhere_stays_with_the_leader() {
        let devices = [device(true, 1.0, 2), device(false, 1.0, 5)];
        assert_eq!(counts(&place(&model(), &devices), 2), [25, 5]);
    }

    #[test]
    fn any_question_has_an_answer() {
        assert_eq!(place(&model(), &[]).owners, vec![0; 30]);
        assert!(place(&Model::default(), &[]).owners.is_empty());
        for speed in [
            f32::NAN,
            f32::INFINITY,
            -1.0,
            0.0,
            f32::MIN_POSITIVE,
            f32::MAX,
        ] {
            for memory in [0, 7, u64::MAX] {
                let devices = [device(true, speed, memory), device(false, speed, memory)];
                let wild = Model {
                    attention_cost: speed,
                    head_cost: speed,
                    ..model()
                };
                assert_eq!(place(&wild, &devices).owners.len(), 30);
            }
        }
    }

    #[test]
    fn scores_add_up_to_one() {
        let mut scores = vec![7.0; 3];
        score(&model(), 0, &mut scores);
        assert_eq!(scores, vec![0.1; 10]);
        let importance = (0..30).map(|i| (i % 10) as f32).collect();
        score(
            &Model {
                importance,
                ..model()
            },
            2,
            &mut scores,
        );
        assert_eq!(scores[9], 0.2);
        score(&model(), 99, &mut scores);
        assert_eq!(scores, vec![0.1; 10]);
    }
}
