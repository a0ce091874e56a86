//! Who computes what.
//!
//! 1. *How many.* Layer by layer, each group goes to the device that would finish it first, counting its way there and back
//!    and the groups it has already. That minimises the time of the slowest; a device too far or too slow to help gets none.
//!    Memory is a hard limit and is spread over the layers.
//! 2. *Which.* The leader takes the most important groups of the layer, then the workers by stability: the groups that
//!    matter least are on the link that loses most.
//! 3. *Whether.* The placement in force stays unless the new one saves enough time or keeps enough importance off bad links:
//!    moving groups costs loading them.
//! 4. *Standbys.* The most important groups of the least stable worker are kept loaded by the stablest device with room.

use std::collections::HashSet;

use crate::bindings::exports::halo::policy::scheduler::{Device, Placement, Standby};
use crate::bindings::halo::policy::types::Model;
use crate::{settings::Settings, time};

/// A placement of all groups, or why there is none.
pub fn place(
    settings: &Settings,
    model: &Model,
    devices: &[Device],
    current: Option<Placement>,
) -> Result<Placement, String> {
    let stable_first = stable_first(devices);
    let owners = owners(model, devices, &stable_first)?;
    let micros = |owners: &[u32]| (time::token(model, devices, owners) * 1e6) as u32;
    if let Some(current) = current.filter(|current| is_valid(model, devices, current)) {
        let better = time::token(model, devices, &owners)
            < time::token(model, devices, &current.owners) * f64::from(1.0 - settings.hysteresis);
        let (before, after) = (
            exposure(model, devices, &current.owners),
            exposure(model, devices, &owners),
        );
        if !better && after > before * 0.9 - 0.001 {
            let token_us = micros(&current.owners);
            return Ok(Placement {
                token_us,
                ..current
            });
        }
    }
    let standbys = standbys(settings, model, devices, &stable_first, &owners);
    Ok(Placement {
        token_us: micros(&owners),
        owners,
        standbys,
    })
}

/// Devices by how sure their partials are to arrive: the leader, then by loss, then by deviation.
fn stable_first(devices: &[Device]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..devices.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&devices[a], &devices[b]);
        b.leader
            .cmp(&a.leader)
            .then(a.loss.total_cmp(&b.loss))
            .then(a.spread_us.cmp(&b.spread_us))
            .then(a.delay_us.cmp(&b.delay_us))
    });
    order
}

/// Steps 1 and 2.
fn owners(model: &Model, devices: &[Device], stable_first: &[usize]) -> Result<Vec<u32>, String> {
    let layers = u64::from(model.layers);
    let groups = model.groups as usize;
    let total = layers * groups as u64;
    // No more than all groups, so that sums stay small.
    let room: Vec<u64> = devices
        .iter()
        .map(|device| room(model, device).min(total))
        .collect();
    let sum: u64 = room.iter().sum();
    if sum < total {
        return Err(format!(
            "the devices have memory for {sum} of {total} groups"
        ));
    }

    let mut left = room.clone();
    let mut owners = vec![0; total as usize];
    for (layer, owners) in owners.chunks_mut(groups.max(1)).enumerate() {
        // An even part of everybody's memory, fractions coming round in turn.
        let layer = layer as u64;
        let part = |i: usize| room[i] * (layer + 1) / layers - room[i] * layer / layers;
        let mut counts = vec![0u32; devices.len()];
        for _ in 0..groups {
            let soonest = |among: &dyn Fn(usize) -> bool| {
                let finish = |i: usize| time::partial(&devices[i], counts[i] + 1);
                stable_first
                    .iter()
                    .copied()
                    .filter(|&i| left[i] > 0 && among(i))
                    .min_by(|&a, &b| finish(a).total_cmp(&finish(b)))
            };
            // Rounding may leave a layer short of parts; then it takes from later layers'.
            let next = soonest(&|i| u64::from(counts[i]) < part(i)).or_else(|| soonest(&|_| true));
            let next = next.ok_or("the devices' memory ended early")?;
            counts[next] += 1;
            left[next] -= 1;
        }
        let mut ranked = ranked(model, layer as usize).into_iter();
        for &device in stable_first {
            for group in ranked.by_ref().take(counts[device] as usize) {
                owners[group] = device as u32;
            }
        }
    }
    Ok(owners)
}

/// A layer's groups, the most important first; in their own order if the package is not calibrated.
fn ranked(model: &Model, layer: usize) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..model.groups as usize).collect();
    ranked.sort_by(|&a, &b| importance(model, layer, b).total_cmp(&importance(model, layer, a)));
    ranked
}

fn importance(model: &Model, layer: usize, group: usize) -> f32 {
    let groups = model.groups as usize;
    model
        .importance
        .get(layer * groups + group)
        .copied()
        .unwrap_or(1.0 / groups as f32)
}

fn room(model: &Model, device: &Device) -> u64 {
    device
        .memory
        .checked_div(model.group_bytes)
        .unwrap_or(u64::MAX)
}

/// Share of the importance that is expected to be lost on its first way, averaged over the layers.
fn exposure(model: &Model, devices: &[Device], owners: &[u32]) -> f64 {
    let groups = model.groups.max(1) as usize;
    let lost = owners.iter().enumerate().map(|(index, &owner)| {
        f64::from(importance(model, index / groups, index % groups))
            * f64::from(devices[owner as usize].loss)
    });
    lost.sum::<f64>() / f64::from(model.layers.max(1))
}

/// Whether a placement can be carried out by these devices, its standbys included.
fn is_valid(model: &Model, devices: &[Device], placement: &Placement) -> bool {
    let mut held = vec![0u64; devices.len()];
    let holders = placement
        .owners
        .iter()
        .chain(placement.standbys.iter().map(|s| &s.device));
    for &device in holders {
        match held.get_mut(device as usize) {
            Some(held) => *held += 1,
            None => return false,
        }
    }
    placement.owners.len() as u64 == u64::from(model.layers) * u64::from(model.groups)
        && devices
            .iter()
            .zip(held)
            .all(|(device, held)| held <= room(model, device))
}

/// Step 4.
fn standbys(
    settings: &Settings,
    model: &Model,
    devices: &[Device],
    stable_first: &[usize],
    owners: &[u32],
) -> Vec<Standby> {
    let groups = model.groups.max(1) as usize;
    let working: HashSet<u32> = owners.iter().copied().collect();
    let worker = |i: &&usize| !devices[**i].leader && working.contains(&(**i as u32));
    let Some(&shaky) = stable_first.iter().rev().find(worker) else {
        return Vec::new();
    };
    let mut precious: Vec<usize> = (0..owners.len())
        .filter(|&i| owners[i] == shaky as u32)
        .collect();
    let count = (precious.len() as f32 * settings.standbys) as usize;
    let value = |index: usize| importance(model, index / groups, index % groups);
    precious.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
    precious.truncate(count);

    let mut left: Vec<u64> = devices.iter().map(|device| room(model, device)).collect();
    owners.iter().for_each(|&owner| left[owner as usize] -= 1);
    let mut standbys = Vec::new();
    for index in precious {
        let Some(&device) = stable_first.iter().find(|&&i| i != shaky && left[i] > 0) else {
            break;
        };
        left[device] -= 1;
        let (layer, group) = ((index / groups) as u32, (index % groups) as u32);
        standbys.push(Standby {
            layer,
            group,
            device: device as u32,
        });
    }
    standbys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        // In each layer the later groups matter more.
        let importance = (0..40).map(|i| (i % 20 + 1) as f32 / 210.0).collect();
        Model {
            layers: 2,
            width: 8,
            groups: 20,
            group_bytes: 1,
            attention_cost: 3.0,
            head_cost: 5.0,
            importance,
        }
    }

    fn device(speed: f32, memory: u64, delay_us: u32, loss: f32) -> Device {
        Device {
            name: "d".into(),
            leader: delay_us == 0,
            speed,
            memory,
            delay_us,
            spread_us: 0,
            loss,
        }
    }

    fn placed(devices: &[Device], current: Option<Placement>) -> Placement {
        place(&Settings::default(), &model(), devices, current).unwrap()
    }

    fn counts(placement: &Placement, devices: u32) -> Vec<usize> {
        (0..devices)
            .map(|d| placement.owners.iter().filter(|&&owner| owner == d).count())
            .collect()
    }

    #[test]
    fn shares_follow_speed_and_way() {
        // 10 ms for 10 groups at home; 5 ms away and twice as fast: also 10 ms for 10 groups.
        let placement = placed(
            &[device(1000.0, 100, 0, 0.0), device(2000.0, 100, 5000, 0.0)],
            None,
        );
        assert_eq!(counts(&placement, 2), [20, 20]);
        // Attention 3 ms, round 10 ms, twice; head 5 ms.
        assert_eq!(placement.token_us, 31_000);
    }

    #[test]
    fn a_device_that_would_not_help_gets_nothing() {
        let far = device(1000.0, 100, 30_000, 0.0);
        let stuck = device(0.0, 100, 10, 0.0);
        let placement = placed(&[device(1000.0, 100, 0, 0.0), far, stuck], None);
        assert_eq!(counts(&placement, 3), [40, 0, 0]);
        assert!(placement.standbys.is_empty());
    }

    #[test]
    fn important_groups_are_on_stable_devices() {
        let home = device(1000.0, 100, 0, 0.0);
        let (shaky, steady) = (
            device(1000.0, 100, 100, 0.2),
            device(1000.0, 100, 100, 0.01),
        );
        let placement = placed(&[home, shaky, steady], None);
        let mean = |d: u32| {
            let of = |i: &usize| placement.owners[*i] == d;
            let own: Vec<f32> = (0..40).filter(of).map(|i| model().importance[i]).collect();
            own.iter().sum::<f32>() / own.len() as f32
        };
        assert!(mean(0) > mean(2) && mean(2) > mean(1), "{placement:?}");
        // An eighth of the shaky one's 12 or so groups, kept by the leader.
        assert_eq!(placement.standbys.len(), counts(&placement, 3)[1] / 8);
        assert!(placement.standbys.iter().all(|standby| standby.device == 0));
    }

    #[test]
    fn memory_is_a_hard_limit() {
        let devices = [
            device(1000.0, 25, 0, 0.0),
            device(9000.0, 10, 10, 0.0),
            device(9000.0, 5, 10, 0.3),
        ];
        let placement = placed(&devices, None);
        assert_eq!(counts(&placement, 3), [25, 10, 5]);
        assert!(placement.standbys.is_empty());
        let error = place(&Settings::default(), &model(), &devices[..2], None).unwrap_err();
        assert_eq!(error, "the devices have memory for 35 of 40 groups");
    }

    #[test]
    fn a_placement_nearly_as_good_stays() {
        let devices = |speed| [device(1000.0, 100, 0, 0.0), device(speed, 100, 100, 0.02)];
        let first = placed(&devices(1000.0), None);
        let second = placed(&devices(1010.0), Some(first.clone()));
        assert_eq!(second.owners, first.owners);
        let third = placed(&devices(3000.0), Some(first.clone()));
        assert_ne!(third.owners, first.owners);
        // One that does not fit is not kept.
        let broken = Placement {
            owners: vec![7; 40],
            ..first
        };
        assert!(
            placed(&devices(1000.0), Some(broken))
                .owners
                .iter()
                .all(|&owner| owner < 2)
        );
    }
}
