//! Which device computes which KV heads.
//!
//! Attention and feed-forward are rounds of their own, one after the other, so they are shared out one after the other: first the
//! heads, by what is estimated here, then by the scheduler the groups, in the memory that is left.

use halo_engine::KvCache;
use halo_models::Package;
use halo_policy::{Device, Model};

use crate::config::AttentionPlace;

/// A sharing must be expected to take less than this share of the time that all heads take on the leader.
const CLEARLY: f64 = 0.8;

/// And less than this share of what the one in force takes, or that stays: all texts under way have to be computed anew. Hosts whose time
/// is bounded seem slow and fast in turn, and heads that followed them took more than they ever gave.
const CLEARLY_BETTER: f64 = 0.5;

/// What a worker costs the leader in a round, as a share of the way there and back, and at most, in seconds: it encodes, sends, and
/// takes in what comes back. As `scheduler-halo` has it.
const OWN_SHARE: f64 = 0.4;
const OWN_MOST: f64 = 200e-6;

/// Over links that lose more than this there and back, everything is sent twice.
const TWICE: f64 = 0.12;

/// How many KV heads of every layer each device computes.
pub(crate) type Counts = Vec<usize>;

/// Bytes that so many heads take, of all layers together: their weights, and their keys and values of as many tokens as the model
/// sees.
pub(crate) fn bytes(package: &Package, heads: usize) -> u64 {
    let shape = package.shape();
    let weights = package.attention_bytes() / shape.kv_heads as u64 * heads as u64;
    weights.saturating_add(KvCache::bytes_of_heads(shape, heads, shape.context))
}

/// A model's heads and the devices that there are for them, the leader first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sharing<'a> {
    pub(crate) place: AttentionPlace,
    pub(crate) devices: &'a [Device],
    pub(crate) kv_heads: usize,
    /// Work of a head in one layer, in groups.
    pub(crate) cost: f64,
    /// Bytes of a head in all layers.
    pub(crate) bytes: u64,
}

impl<'a> Sharing<'a> {
    pub(crate) fn new(
        place: AttentionPlace,
        package: &Package,
        model: &Model,
        devices: &'a [Device],
    ) -> Self {
        let shape = package.shape();
        Self {
            place,
            devices,
            kv_heads: shape.kv_heads,
            cost: f64::from(model.attention_cost) / shape.kv_heads as f64,
            bytes: bytes(package, shape.layers),
        }
    }

    /// Shares the heads out, or leaves them as they are: at first on the leader.
    pub(crate) fn share(&self, current: Option<&Counts>) -> Counts {
        let fresh = self.fresh();
        if self.place != AttentionPlace::Auto {
            return fresh;
        }
        let (current, clearly) = match current.filter(|current| self.fits(current)) {
            Some(current) => (current.clone(), CLEARLY_BETTER),
            None => (self.at_home(), CLEARLY),
        };
        if self.seconds(&fresh) < clearly * self.seconds(&current) {
            fresh
        } else {
            current
        }
    }

    /// All on the leader.
    pub(crate) fn at_home(&self) -> Counts {
        let mut counts = vec![0; self.devices.len()];
        counts[..1].fill(self.kv_heads);
        counts
    }

    /// Each head to whoever would be done with it first, or has fewest.
    fn fresh(&self) -> Counts {
        let mut counts = vec![0; self.devices.len()];
        for _ in 0..self.kv_heads {
            let after = |device: usize| {
                let mut tried = counts.clone();
                tried[device] += 1;
                match self.place {
                    // What the others wait for the leader counts as well.
                    AttentionPlace::Auto => self.part(&tried, device).max(self.part(&tried, 0)),
                    AttentionPlace::Even => tried[device] as f64,
                    AttentionPlace::Leader => device as f64,
                }
            };
            let can = |device: &usize| *device == 0 || self.can_take(*device, counts[*device] + 1);
            let first = (0..counts.len())
                .filter(can)
                .min_by(|a, b| after(*a).total_cmp(&after(*b)));
            counts[first.unwrap_or(0)] += 1;
        }
        counts
    }

    fn can_take(&self, device: usize, heads: usize) -> bool {
        let Device { speed, memory, .. } = self.devices[device];
        heads == 0 || speed > 0.0 && self.bytes.saturating_mul(heads as u64) <= memory
    }

    fn fits(&self, counts: &Counts) -> bool {
        counts.len() == self.devices.len()
            && (1..counts.len()).all(|device| self.can_take(device, counts[device]))
    }

    /// Expected time of one layer's attention, in seconds.
    pub(crate) fn seconds(&self, counts: &Counts) -> f64 {
        let parts = (0..counts.len()).map(|device| self.part(counts, device));
        parts.fold(0.0, f64::max)
    }

    /// When a device's part is there, in seconds.
    fn part(&self, counts: &Counts, device: usize) -> f64 {
        let begin = match (device, counts[device]) {
            (0, _) => {
                let workers = (1..counts.len()).filter(|worker| counts[*worker] > 0);
                workers
                    .map(|worker| (OWN_SHARE * way(&self.devices[worker])).min(OWN_MOST))
                    .sum()
            }
            _ => way(&self.devices[device]),
        };
        match counts[device] {
            0 if device == 0 => begin,
            0 => 0.0,
            count => begin + count as f64 * self.cost / f64::from(self.devices[device].speed),
        }
    }
}

/// Expected way there and back, in seconds. What is lost and not made up for is asked for again, as often as it takes.
fn way(device: &Device) -> f64 {
    let lost = lost(f64::from(device.loss).clamp(0.0, 0.99));
    let (delay, spread) = (f64::from(device.delay_us), f64::from(device.spread_us));
    (delay + spread + lost / (1.0 - lost) * (delay + 4.0 * spread)) * 1e-6
}

/// Share of answers that have to be asked for again, at this share of packets lost there and back. Parity makes up for any one of a way's
/// packets, and lossy links have everything sent twice. As `scheduler-halo` has it.
fn lost(loss: f64) -> f64 {
    let once = if loss > TWICE {
        loss * loss / 2.0
    } else {
        loss
    };
    (1.5 * once * once).min(once)
}

/// The heads by device and layer: each device's follow the one's before it, in every layer alike.
pub(crate) fn by_device(counts: &Counts, layers: usize) -> Vec<Vec<Vec<u32>>> {
    let mut next = 0;
    let each = counts.iter().map(|count| {
        let heads = next..next + *count as u32;
        next = heads.end;
        vec![heads.collect(); layers]
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(speed: f32, delay_us: u32, memory: u64) -> Device {
        Device {
            leader: delay_us == 0,
            speed,
            memory,
            delay_us,
            ..Device::default()
        }
    }

    fn sharing(place: AttentionPlace, devices: &[Device]) -> Sharing<'_> {
        Sharing {
            place,
            devices,
            kv_heads: 8,
            cost: 10.0,
            bytes: 100,
        }
    }

    #[test]
    fn evenly_is_as_many_for_everybody_who_has_room() {
        let devices = [
            device(1000.0, 0, 0),
            device(2000.0, 500_000, 1000),
            device(1000.0, 500, 100),
        ];
        assert_eq!(
            sharing(AttentionPlace::Even, &devices).share(None),
            [4, 3, 1]
        );
        let leader = sharing(AttentionPlace::Leader, &devices);
        assert_eq!(leader.share(Some(&vec![4, 3, 1])), [8, 0, 0]);
        assert_eq!(
            by_device(&vec![1, 2, 0], 2),
            [
                vec![vec![0]; 2],
                vec![vec![1, 2]; 2],
                vec![Vec::<u32>::new(); 2]
            ]
        );
    }

    #[test]
    fn heads_follow_speed_and_a_way_has_to_be_worth_it() {
        // All at home take 80 ms; a quarter of them away, the way of 2 ms is nothing.
        let near = [device(1000.0, 0, 0), device(1000.0, 2000, 1000)];
        assert_eq!(sharing(AttentionPlace::Auto, &near).share(None), [4, 4]);
        let far = [device(1000.0, 0, 0), device(1000.0, 80_000, 1000)];
        assert_eq!(sharing(AttentionPlace::Auto, &far).share(None), [8, 0]);
        // 70 ms would not be clearly less than 80.
        let distant = [device(1000.0, 0, 0), device(1000.0, 55_000, 1000)];
        assert_eq!(sharing(AttentionPlace::Auto, &distant).share(None), [8, 0]);
        let stuck = [device(1000.0, 0, 0), device(0.0, 10, 1000)];
        assert_eq!(sharing(AttentionPlace::Auto, &stuck).share(None), [8, 0]);
    }

    #[test]
    fn what_is_nearly_as_good_stays() {
        let devices = |speed| [device(1000.0, 0, 0), device(speed, 100, 1000)];
        let share = |speed, current: &[usize]| {
            sharing(AttentionPlace::Auto, &devices(speed)).share(Some(&current.to_vec()))
        };
        assert_eq!(share(1300.0, &[4, 4]), [4, 4]);
        assert_eq!(share(1000.0, &[8, 0]), [8, 0]);
        assert_eq!(share(4000.0, &[4, 4]), [1, 7]);
        assert_eq!(share(10.0, &[4, 4]), [8, 0]);
        // What does not fit any more does not stay.
        let small = [device(1000.0, 0, 0), device(1000.0, 100, 250)];
        let shared = sharing(AttentionPlace::Auto, &small).share(Some(&vec![4, 4]));
        assert_eq!(shared, [6, 2]);
    }
}
