//! Who computes what.
//!
//! 1. *How many* groups of each layer each device computes: see `shares.rs`.
//! 2. *Which*: see `owners.rs`. Of a placement in force as much as possible stays, unless that would leave important groups on
//!    bad links.
//! 3. *Whether*. The placement in force stays unless the new one saves enough time, and has soon made up for loading what moves;
//!    or unless it keeps enough importance off bad links.
//! 4. *Standbys*: see `standbys.rs`.

use crate::bindings::exports::halo::policy::scheduler::{Device, Placement};
use crate::bindings::halo::policy::types::Model;
use crate::cluster::Cluster;
use crate::{owners, settings::Settings, shares, standbys, time};

/// Tokens within which a new placement has to save the time that loading takes.
const REPAID: f64 = 256.0;

/// A placement of all groups, or why there is none.
pub fn place(
    settings: &Settings,
    model: &Model,
    devices: &[Device],
    current: Option<Placement>,
) -> Result<Placement, String> {
    let cluster = Cluster::new(model, devices);
    let shares = shares::shares(&cluster)?;
    let mut owners = owners::fresh(&cluster, &shares);
    if let Some(current) = current.filter(|current| cluster.fits(current)) {
        let gentle = owners::gentle(&cluster, &shares, &current.owners);
        if !is_safer(&cluster, &gentle, &owners) {
            owners = gentle;
        }
        if !is_faster(settings, &cluster, &current.owners, &owners)
            && !is_safer(&cluster, &current.owners, &owners)
        {
            let token_us = micros(&cluster, &current.owners);
            return Ok(Placement {
                token_us,
                ..current
            });
        }
    }
    Ok(Placement {
        token_us: micros(&cluster, &owners),
        standbys: standbys::standbys(&cluster, settings.standbys, &owners),
        owners,
    })
}

/// Whether other owners save enough time.
fn is_faster(settings: &Settings, cluster: &Cluster, before: &[u32], after: &[u32]) -> bool {
    let (now, then) = (time::token(cluster, before), time::token(cluster, after));
    then < now * f64::from(1.0 - settings.hysteresis)
        && (now - then) * REPAID > time::loading(cluster, before, after)
}

/// Whether other owners keep much more importance off bad links.
fn is_safer(cluster: &Cluster, before: &[u32], after: &[u32]) -> bool {
    cluster.exposure(after) < cluster.exposure(before) * 0.8 - 0.002
}

fn micros(cluster: &Cluster, owners: &[u32]) -> u32 {
    (time::token(cluster, owners) * 1e6).round() as u32
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
        // 10 ms for 10 groups at home; 5 ms away and twice as fast: also 10 ms for 10 groups. The worker costs the leader 0.2 ms.
        let placement = placed(
            &[device(1000.0, 100, 0, 0.0), device(2000.0, 100, 5000, 0.0)],
            None,
        );
        assert_eq!(counts(&placement, 2), [20, 20]);
        // Attention 3 ms, round 10.2 ms, twice; head 5 ms.
        assert_eq!(placement.token_us, 31_400);
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
        // An eighth of each worker's 12 or so groups, kept by the leader.
        let workers = &counts(&placement, 3)[1..];
        let eighths = workers.iter().map(|count| count / 8);
        assert_eq!(placement.standbys.len(), eighths.sum::<usize>());
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
