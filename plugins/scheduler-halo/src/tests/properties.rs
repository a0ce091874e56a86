//! What every plan keeps to.

use super::*;
use crate::time;

/// A question, and other speeds of the same devices, by these factors.
fn changing(by: std::ops::Range<f32>) -> impl Strategy<Value = (Question, Question)> {
    (question(6, 24, 5), vec(by, 5)).prop_map(|(question, factors)| {
        let mut changed = question.clone();
        for (device, factor) in changed.devices.iter_mut().zip(factors) {
            device.speed *= factor;
        }
        (question, changed)
    })
}

/// With memory for everything on each device, so that the best plan is found.
fn roomy(question: &mut Question) {
    let devices = question.devices.iter_mut();
    devices.for_each(|device| device.memory = u64::MAX);
}

/// With no packet lost, so that nothing but time is reason for a move.
fn lossless((mut before, mut after): (Question, Question)) -> (Question, Question) {
    let devices = before.devices.iter_mut().chain(&mut after.devices);
    devices.for_each(|device| device.loss = 0.0);
    (before, after)
}

/// How many groups of each layer each device has.
fn counts(question: &Question, owners: &[u32]) -> Vec<Vec<usize>> {
    let of = |layer: &[u32], device| layer.iter().filter(|&&owner| owner == device).count();
    let layers = owners.chunks(question.model.groups as usize);
    layers
        .map(|layer| {
            (0..question.devices.len() as u32)
                .map(|d| of(layer, d))
                .collect()
        })
        .collect()
}

proptest! {
    #[test]
    fn every_group_is_placed_once_within_memory(question in question(6, 24, 5)) {
        let placement = question.place(None);
        prop_assert!(question.cluster().fits(&placement));
        for standby in &placement.standbys {
            let index = standby.layer * question.model.groups + standby.group;
            prop_assert_ne!(placement.owners[index as usize], standby.device);
        }
    }

    #[test]
    fn no_plan_is_slower_than_the_leader_alone(mut question in question(6, 24, 5)) {
        question.devices[0].memory = u64::MAX;
        let cluster = question.cluster();
        let alone = vec![0; question.place(None).owners.len()];
        let planned = time::token(&cluster, &question.place(None).owners);
        prop_assert!(planned <= time::token(&cluster, &alone) * (1.0 + 1e-9));
    }

    #[test]
    fn a_device_that_would_slow_the_token_is_left_out(mut question in question(6, 24, 5), slow in 1usize..5) {
        roomy(&mut question);
        // Its way alone is longer than the leader takes for all.
        let far = (question.model.groups as f32 / question.devices[0].speed * 1e6) as u32 + 1;
        if let Some(device) = question.devices.get_mut(slow) {
            device.delay_us = far;
        }
        let placement = question.place(None);
        prop_assert!(placement.owners.iter().all(|&owner| owner != slow as u32));
    }

    #[test]
    fn what_matters_is_on_stable_devices(question in question(6, 24, 5)) {
        let cluster = question.cluster();
        let placement = question.place(None);
        let stability = |&index: &usize| {
            let owner = placement.owners[index] as usize;
            cluster.stable_first.iter().position(|&device| device == owner)
        };
        for layer in 0..cluster.layers() {
            let groups = layer * cluster.groups()..(layer + 1) * cluster.groups();
            let ranked = cluster.ranked(groups.collect());
            prop_assert!(ranked.iter().map(stability).is_sorted());
        }
    }

    #[test]
    fn small_changes_move_nothing((mut before, mut after) in changing(0.99..1.01).prop_map(lossless)) {
        roomy(&mut before);
        roomy(&mut after);
        let placement = before.place(None);
        prop_assert_eq!(after.place(Some(placement.clone())).owners, placement.owners);
    }

    #[test]
    fn a_move_saves_more_than_it_costs((before, after) in changing(0.2..5.0).prop_map(lossless)) {
        let placement = before.place(None);
        let moved = after.place(Some(placement.clone()));
        prop_assert!(after.cluster().fits(&moved));
        if moved.owners != placement.owners {
            let cluster = after.cluster();
            let now = time::token(&cluster, &placement.owners);
            let then = time::token(&cluster, &moved.owners);
            prop_assert!(then < 0.97 * now);
            prop_assert!(256.0 * (now - then) > time::loading(&cluster, &placement.owners, &moved.owners));
        }
    }

    #[test]
    fn plans_come_to_rest((before, after) in changing(0.2..5.0)) {
        let moved = after.place(Some(before.place(None)));
        prop_assert_eq!(after.place(Some(moved.clone())).owners, moved.owners);
    }

    #[test]
    fn no_more_moves_than_shares_change((before, after) in changing(0.2..5.0).prop_map(lossless)) {
        let current = before.place(None).owners;
        let moved = after.place(Some(before.place(None))).owners;
        let changed = moved.iter().zip(&current).filter(|(a, b)| a != b).count();
        let (from, to) = (counts(&after, &current), counts(&after, &moved));
        let gained = from.iter().flatten().zip(to.iter().flatten()).map(|(a, b)| b.saturating_sub(*a));
        prop_assert_eq!(changed, gained.sum::<usize>());
    }
}
