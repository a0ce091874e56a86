//! What the devices of a leader are like: at first by what they and the network say of themselves, then by their rounds.

use std::collections::BTreeMap;

use halo_fabric::{Estimate, NodeId};
use halo_policy::Device;
use tokio::time::Instant;
use tracing::info;

use crate::followed::Followed;
use crate::messages::Profile;
use crate::pace::Pace;

/// Rounds between two looks that say something.
const ENOUGH: u64 = 20;

/// Before there are rounds: what a round takes beyond a ping there and back, by the ping; but no more than this, since it is in the
/// machines and not on the way. A round has threads to wake, and packets to encode and decode.
const HANDLING: f64 = 1.5;
const HANDLING_MOST: f64 = 300e-6;

/// Differences that no placement depends on: of a way, in seconds, and of loss.
const WAY_FLOOR: f64 = 200e-6;
const LOSS_FLOOR: f64 = 0.03;

/// The devices that there are to place groups on.
#[derive(Debug, Default)]
pub(crate) struct Watch(BTreeMap<NodeId, Watched>);

#[derive(Debug)]
struct Watched {
    /// Seconds for a group.
    group: Followed,
    /// Seconds of a round without computing, beyond the ping.
    handling: Followed,
    /// Seconds of a ping there and back.
    ping: Followed,
    /// Share of packets lost there and back.
    loss: Followed,
    /// At the last look.
    seen: Seen,
}

/// What has been counted of a device in rounds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Until its answers came; of the leader nothing.
    pub(crate) answers: Pace,
    /// What it has computed, by its own account.
    pub(crate) computed: Pace,
}

impl Watch {
    /// A device as schedulers are told of it. `estimate` is of the way to it; the leader has none.
    pub(crate) fn device(&mut self, profile: &Profile, estimate: Option<&Estimate>) -> Device {
        let node = profile.node.clone();
        let watched = self
            .0
            .entry(node)
            .or_insert_with(|| Watched::new(profile, estimate));
        let micros = |seconds: f64| (seconds * 1e6) as u32;
        let (shortest, median) = estimate.map_or((0.0, 0.0), ping);
        Device {
            name: profile.node.to_string(),
            leader: estimate.is_none(),
            speed: watched.group.value().recip() as f32,
            memory: profile.memory,
            delay_us: estimate.map_or(0, |_| micros(shortest + watched.handling.value())),
            spread_us: micros(median - shortest),
            loss: estimate.map_or(0.0, |e| e.loss_both_ways() as f32),
        }
    }

    /// Takes in what there is to see of a device. True if it is not what it was.
    pub(crate) fn look(
        &mut self,
        node: &NodeId,
        seen: Option<Seen>,
        estimate: Option<&Estimate>,
        now: Instant,
    ) -> bool {
        let Some(watched) = self.0.get_mut(node) else {
            return false;
        };
        let mut changed = false;
        if let Some(estimate) = estimate {
            changed |= watched.ping.observe(ping(estimate).1, now);
            changed |= watched.loss.observe(estimate.loss_both_ways(), now);
        }
        if let Some(seen) = seen {
            changed |= watched.rounds(seen, estimate, now);
        }
        if changed {
            let speed = watched.group.value().recip() as u32;
            let handling_us = (watched.handling.value() * 1e6) as u32;
            info!(%node, speed, handling_us, ping_us = (watched.ping.value() * 1e6) as u32, loss = watched.loss.value(), "not what it was");
        }
        changed
    }

    /// Forgets other nodes than these.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&NodeId) -> bool) {
        self.0.retain(|node, _| wanted(node));
    }
}

impl Watched {
    fn new(profile: &Profile, estimate: Option<&Estimate>) -> Self {
        let (shortest, median) = estimate.map_or((0.0, 0.0), ping);
        Self {
            group: Followed::new(f64::from(profile.speed).recip(), 0.0),
            handling: Followed::new((HANDLING * shortest).min(HANDLING_MOST), WAY_FLOOR / 2.0),
            ping: Followed::new(median, WAY_FLOOR),
            loss: Followed::new(estimate.map_or(0.0, Estimate::loss_both_ways), LOSS_FLOOR),
            seen: Seen::default(),
        }
    }

    /// Takes in what was counted in rounds, once there are enough.
    fn rounds(&mut self, seen: Seen, estimate: Option<&Estimate>, now: Instant) -> bool {
        let computed = seen.computed.since(self.seen.computed);
        let answers = seen.answers.since(self.seen.answers);
        if computed.rounds < ENOUGH || (estimate.is_some() && answers.rounds < ENOUGH) {
            return false;
        }
        self.seen = seen;
        let mut changed = false;
        if computed.groups > 0 {
            let group = computed.seconds / computed.groups as f64;
            changed |= self.group.observe(group, now);
        }
        if let Some(estimate) = estimate {
            let way = answers.round() - computed.round();
            let handling = (way - ping(estimate).0).max(0.0);
            changed |= self.handling.observe(handling, now);
        }
        changed
    }
}

/// The shortest ping lately and the median, in seconds. A way that is not known yet counts as short.
fn ping(estimate: &Estimate) -> (f64, f64) {
    let seconds = |micros: Option<f64>| micros.unwrap_or(0.0) * 1e-6;
    (seconds(estimate.shortest_us), seconds(estimate.median_us))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn profile(speed: f32) -> Profile {
        Profile {
            node: "worker".parse().unwrap(),
            version: String::new(),
            architecture: String::new(),
            cores: 1,
            threads: 1,
            serves: true,
            model: String::new(),
            speed,
            memory: 1000,
            transport: halo_fabric::Transport::Udp,
            temperature: None,
        }
    }

    fn link(shortest_us: f64, median_us: f64) -> Estimate {
        Estimate {
            shortest_us: Some(shortest_us),
            median_us: Some(median_us),
            ..Estimate::default()
        }
    }

    /// A worker's counts after so many rounds of ten groups.
    fn counted(rounds: u64, computing_us: f64, answer_us: f64) -> Option<Seen> {
        let pace = |micros: f64| Pace {
            rounds,
            groups: 10 * rounds,
            seconds: rounds as f64 * micros * 1e-6,
        };
        Some(Seen {
            answers: pace(answer_us),
            computed: pace(computing_us),
        })
    }

    #[test]
    fn devices_are_described_by_what_is_said_until_rounds_say_otherwise() {
        let (mut watch, profile, link) = (Watch::default(), profile(50_000.0), link(100.0, 120.0));
        let device = watch.device(&profile, Some(&link));
        assert_eq!((device.delay_us, device.spread_us), (250, 20));
        assert!((device.speed - 50_000.0).abs() < 1.0);

        // As planned for: 200 us for ten groups, and 250 us on the way.
        let mut now = Instant::now();
        let mut look = |seen| {
            now += Duration::from_secs(1);
            watch.look(&profile.node, seen, Some(&link), now)
        };
        for rounds in 1..5 {
            assert!(!look(counted(100 * rounds, 200.0, 450.0)));
        }
        // Too few rounds to say anything.
        assert!(!look(counted(410, 300.0, 600.0)));
        // It has begun anew, is a quarter as fast, and the way is longer.
        assert!(!look(counted(100, 800.0, 1300.0)));
        assert!(look(counted(200, 800.0, 1300.0)));
        let device = watch.device(&profile, Some(&link));
        assert!((device.speed - 12_500.0).abs() < 1.0, "{device:?}");
        assert!((499..=500).contains(&device.delay_us), "{device:?}");
    }

    #[test]
    fn links_are_followed_without_rounds() {
        let (mut watch, profile) = (Watch::default(), profile(1000.0));
        watch.device(&profile, Some(&link(100.0, 120.0)));
        let now = Instant::now();
        let slow = link(5000.0, 6000.0);
        assert!(!watch.look(&profile.node, None, Some(&slow), now));
        assert!(watch.look(&profile.node, None, Some(&slow), now));
        let device = watch.device(&profile, Some(&slow));
        assert_eq!((device.delay_us, device.spread_us), (5150, 1000));
        let stranger = "stranger".parse().unwrap();
        assert!(!watch.look(&stranger, None, Some(&slow), now));
    }
}
