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
    /// Seconds of a ping there and back, while there are no rounds to say more.
    ping: Followed,
    /// Share of packets lost there and back.
    loss: Followed,
    /// At the last look.
    seen: Seen,
    /// What it says of itself: seconds for a group.
    said: f64,
    /// Its rounds have said how long they take.
    measured: bool,
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
        let handling = self.handling(&node, estimate);
        let watched = self
            .0
            .entry(node)
            .or_insert_with(|| Watched::new(profile, estimate, handling));
        let micros = |seconds: f64| (seconds * 1e6) as u32;
        let shortest = estimate.map_or(0.0, |estimate| ping(estimate).0);
        Device {
            name: profile.node.to_string(),
            leader: estimate.is_none(),
            speed: watched.group.value().recip() as f32,
            memory: profile.memory,
            delay_us: estimate.map_or(0, |_| micros(shortest + watched.handling.value())),
            spread_us: micros((watched.ping.value() - shortest).max(0.0)),
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
        let expected = self.handling(node, estimate);
        let Some(watched) = self.0.get_mut(node) else {
            return false;
        };
        let mut changed = false;
        if let Some(estimate) = estimate {
            changed |= watched.loss.observe(estimate.loss_both_ways(), now);
        }
        let in_rounds = seen.and_then(|seen| watched.rounds(seen, estimate, now));
        // Rounds tell more than pings, and so few that they say nothing are no sign that there are none.
        let few = seen.is_some_and(|seen| seen.answers.rounds > watched.seen.answers.rounds);
        if let Some(other) = in_rounds {
            changed |= other;
        } else if let Some(estimate) = estimate.filter(|_| !few) {
            // What was worse while it had a part may have passed.
            changed |= watched.ping.observe(ping(estimate).1, now);
            changed |= watched.handling.observe(expected, now);
            changed |= watched.group.observe(watched.said, now);
        }
        if changed {
            let speed = watched.group.value().recip() as u32;
            let handling_us = (watched.handling.value() * 1e6) as u32;
            info!(%node, speed, handling_us, ping_us = (watched.ping.value() * 1e6) as u32, loss = watched.loss.value(), "not what it was");
        }
        changed
    }

    /// What a round is expected to take beyond the ping where there were none: what it does with the others, and no less than is usual.
    fn handling(&self, node: &NodeId, estimate: Option<&Estimate>) -> f64 {
        let usual = estimate.map_or(0.0, |e| (HANDLING * ping(e).0).min(HANDLING_MOST));
        let others = self.0.iter().filter(|(other, _)| *other != node);
        let measured = others.filter(|(_, watched)| watched.measured);
        let mut measured: Vec<f64> = measured.map(|(_, w)| w.handling.value()).collect();
        measured.sort_by(f64::total_cmp);
        measured
            .get(measured.len() / 2)
            .map_or(usual, |median| median.max(usual))
    }

    /// Leaves out of account what rounds have said of a device up to now.
    pub(crate) fn pass_over(&mut self, node: &NodeId, seen: Seen) {
        if let Some(watched) = self.0.get_mut(node) {
            watched.seen = seen;
        }
    }

    /// Forgets other nodes than these.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&NodeId) -> bool) {
        self.0.retain(|node, _| wanted(node));
    }
}

impl Watched {
    fn new(profile: &Profile, estimate: Option<&Estimate>, handling: f64) -> Self {
        let said = f64::from(profile.speed).recip();
        Self {
            group: Followed::new(said, 0.0),
            handling: Followed::new(handling, WAY_FLOOR / 2.0),
            ping: Followed::new(estimate.map_or(0.0, |e| ping(e).1), WAY_FLOOR),
            loss: Followed::new(estimate.map_or(0.0, Estimate::loss_both_ways), LOSS_FLOOR),
            seen: Seen::default(),
            said,
            measured: false,
        }
    }

    /// Takes in what was counted in rounds. `None` if that is too little to say anything.
    fn rounds(&mut self, seen: Seen, estimate: Option<&Estimate>, now: Instant) -> Option<bool> {
        let computed = seen.computed.since(self.seen.computed);
        let answers = seen.answers.since(self.seen.answers);
        if computed.rounds < ENOUGH || (estimate.is_some() && answers.rounds < ENOUGH) {
            return None;
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
            self.measured = true;
            changed |= self.handling.observe(handling, now);
        }
        Some(changed)
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
    fn a_device_without_a_part_is_as_the_others_were_with_one_and_gets_another_chance() {
        let mut watch = Watch::default();
        let (used, left_out) = (profile(50_000.0), profile(40_000.0));
        let left_out = Profile {
            node: "other".parse().unwrap(),
            ..left_out
        };
        let link = link(100.0, 120.0);
        let mut now = Instant::now();
        let mut look = |watch: &mut Watch, profile: &Profile, seen| {
            now += Duration::from_secs(1);
            watch.look(&profile.node, seen, Some(&link), now)
        };
        watch.device(&used, Some(&link));
        for rounds in 1..3 {
            look(&mut watch, &used, counted(100 * rounds, 200.0, 1000.0));
        }
        // Not the 150 us that such a ping lets one expect of those that nobody has tried.
        let device = watch.device(&left_out, Some(&link));
        assert!((798..=800).contains(&device.delay_us), "{device:?}");

        // It had a part, was slow, and has none any more.
        for rounds in 1..3 {
            look(&mut watch, &left_out, counted(100 * rounds, 1000.0, 5000.0));
        }
        let device = watch.device(&left_out, Some(&link));
        assert!((device.speed - 10_000.0).abs() < 1.0 && device.delay_us > 3900);
        let without = (0..100).filter(|_| look(&mut watch, &left_out, None));
        assert_eq!(without.count(), 1);
        let device = watch.device(&left_out, Some(&link));
        assert!((device.speed - 40_000.0).abs() < 1.0 && device.delay_us <= 800);
    }

    #[test]
    fn rounds_that_are_passed_over_say_nothing() {
        let (mut watch, profile, link) = (Watch::default(), profile(50_000.0), link(100.0, 120.0));
        watch.device(&profile, Some(&link));
        let now = Instant::now();
        for rounds in [100, 200, 300] {
            let slow = counted(rounds, 5000.0, 9000.0);
            watch.pass_over(&profile.node, slow.unwrap());
        }
        let fast = counted(400, 3800.0, 6862.5);
        assert!(!watch.look(&profile.node, fast, Some(&link), now));
        let device = watch.device(&profile, Some(&link));
        assert!((device.speed - 50_000.0).abs() < 1.0, "{device:?}");
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
        assert_eq!((device.delay_us, device.spread_us), (5300, 1000));
        let stranger = "stranger".parse().unwrap();
        assert!(!watch.look(&stranger, None, Some(&slow), now));
    }
}
