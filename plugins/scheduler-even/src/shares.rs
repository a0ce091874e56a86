//! Equal shares within everybody's memory.

use crate::bindings::exports::halo::policy::scheduler::{Device, Placement};
use crate::bindings::halo::policy::types::Model;

/// The same number of groups for every device, fewer for one whose memory ends before, evenly over the layers. Each
/// device's part of a layer is contiguous.
pub fn place(model: &Model, devices: &[Device]) -> Result<Placement, String> {
    let total = u64::from(model.layers) * u64::from(model.groups);
    let room: Vec<u64> = devices
        .iter()
        .map(|device| {
            device
                .memory
                .checked_div(model.group_bytes)
                .unwrap_or(u64::MAX)
        })
        .collect();
    let targets = targets(total, &room)?;

    let mut given = vec![0u64; devices.len()];
    let mut owners = Vec::with_capacity(total as usize);
    let mut token_seconds = seconds(model.head_cost, devices.first());
    for layer in 1..=u64::from(model.layers) {
        let mut counts = vec![0u32; devices.len()];
        for _ in 0..model.groups {
            // Who is furthest behind what it should have after this layer, counted in 1/layers of a group.
            let behind = |i: &usize| {
                let due = u128::from(targets[*i]) * u128::from(layer);
                due as i128 - (u128::from(given[*i]) * u128::from(model.layers)) as i128
            };
            let open = (0..devices.len()).filter(|&i| given[i] < targets[i]);
            let Some(next) = open.rev().max_by_key(behind) else {
                break;
            };
            given[next] += 1;
            counts[next] += 1;
        }
        let mut slowest = 0f32;
        for (index, (device, &count)) in devices.iter().zip(&counts).enumerate() {
            owners.extend(std::iter::repeat_n(index as u32, count as usize));
            if count > 0 {
                let travel = device.delay_us as f32 * 1e-6;
                slowest = slowest.max(travel + seconds(count as f32, Some(device)));
            }
        }
        token_seconds += seconds(model.attention_cost, devices.first()) + slowest;
    }
    Ok(Placement {
        owners,
        standbys: Vec::new(),
        token_us: (token_seconds * 1e6) as u32,
    })
}

/// How many groups each device gets: all the same, except for those without room for so many.
fn targets(total: u64, room: &[u64]) -> Result<Vec<u64>, String> {
    let sum = room
        .iter()
        .fold(0u64, |sum, &room| sum.saturating_add(room));
    if sum < total {
        return Err(format!(
            "the devices have memory for {sum} of {total} groups"
        ));
    }
    let mut targets = vec![0; room.len()];
    let mut left = total;
    while left > 0 {
        // Not empty, as long as there is room for what is left.
        let open: Vec<usize> = (0..room.len()).filter(|&i| targets[i] < room[i]).collect();
        let share = left / open.len() as u64;
        for i in open {
            // Less than one each: one each, from the first on.
            let more = share.max(1).min(room[i] - targets[i]).min(left);
            targets[i] += more;
            left -= more;
        }
    }
    Ok(targets)
}

fn seconds(work: f32, device: Option<&Device>) -> f32 {
    device.map_or(
        0.0,
        |device| if work > 0.0 { work / device.speed } else { 0.0 },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(memory: &[u64]) -> (Model, Vec<Device>) {
        let model = Model {
            layers: 3,
            width: 8,
            groups: 10,
            group_bytes: 1,
            attention_cost: 1.0,
            head_cost: 1.0,
            importance: Vec::new(),
        };
        let device = |(index, &memory): (usize, &u64)| Device {
            name: format!("device-{index}"),
            leader: index == 0,
            speed: 1000.0,
            memory,
            delay_us: 0,
            spread_us: 0,
            loss: 0.0,
        };
        (model, memory.iter().enumerate().map(device).collect())
    }

    fn counts(placement: &Placement, devices: u32) -> Vec<usize> {
        (0..devices)
            .map(|d| placement.owners.iter().filter(|&&owner| owner == d).count())
            .collect()
    }

    #[test]
    fn shares_are_equal() {
        let (model, devices) = cluster(&[100, 100, 100]);
        let placement = place(&model, &devices).unwrap();
        assert_eq!(counts(&placement, 3), [10, 10, 10]);
        for layer in placement.owners.chunks(10) {
            assert!(layer.is_sorted());
            assert!((0..3).all(|d| (3..=4).contains(&layer.iter().filter(|&&o| o == d).count())));
        }
        // Attention 1 ms and 4 groups of 1 ms in each of 3 layers, and the head.
        assert_eq!(placement.token_us, 16_000);
    }

    #[test]
    fn memory_is_a_hard_limit() {
        let (model, devices) = cluster(&[100, 3, 8]);
        let placement = place(&model, &devices).unwrap();
        assert_eq!(counts(&placement, 3), [19, 3, 8]);
        // The small ones have their part of every layer, rather than all of the first.
        assert!(
            placement
                .owners
                .chunks(10)
                .all(|layer| layer.contains(&1) && layer.contains(&2))
        );
        let (model, devices) = cluster(&[10, 10, 9]);
        let error = place(&model, &devices).unwrap_err();
        assert_eq!(error, "the devices have memory for 29 of 30 groups");
        let (model, devices) = cluster(&[10, 10, 10]);
        assert_eq!(counts(&place(&model, &devices).unwrap(), 3), [10, 10, 10]);
    }
}
