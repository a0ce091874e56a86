//! What happens to the hosts when, from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

/// Shares of packets that links lose, one after the other.
const LOSSES: [f64; 5] = [0.0, 0.01, 0.05, 0.1, 0.2];

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Fault {
    /// Workers are killed.
    Kill,
    /// Workers are stopped.
    Freeze,
    /// Links go.
    Cut,
    /// Packets are lost.
    Loss,
}

/// What can happen to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Its process is killed, and another joins.
    Kill,
    /// Its process is stopped, and goes on.
    Freeze,
    /// Its host's link goes, and comes back.
    Cut,
}

impl Kind {
    const ALL: [(Self, Fault); 3] = [
        (Self::Kill, Fault::Kill),
        (Self::Freeze, Fault::Freeze),
        (Self::Cut, Fault::Cut),
    ];

    /// What can happen to a host's worker, without some of it.
    fn of(host: u8, last_host: u8, without: &[Fault]) -> Vec<Self> {
        let all = Self::ALL.iter();
        let left = all.filter(|(_, fault)| !without.contains(fault));
        left.map(|(kind, _)| *kind)
            .filter(|kind| host != last_host || *kind != Self::Kill)
            .collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Freeze => "frozen",
            Self::Cut => "cut off",
        }
    }
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Action {
    /// To a host's worker.
    Begin(Kind, u8),
    /// It is over.
    End(Kind, u8),
    /// All links lose this share of packets from now on.
    Lose(f64),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(kind, host) => write!(f, "host {host} {}", kind.name()),
            Self::End(_, host) => write!(f, "host {host} back"),
            Self::Lose(share) => write!(f, "{} % lost", 100.0 * share),
        }
    }
}

/// All that happens, without an end. To one host one thing happens at a time.
pub(super) struct Schedule {
    random: Xoshiro256PlusPlus,
    /// What can happen to each host's worker.
    kinds: BTreeMap<u8, Vec<Kind>>,
    /// When each host has its next turn, and the links, whose number is 0; and what began with the last.
    turns: BinaryHeap<Reverse<(Duration, u8, Option<Kind>)>>,
}

impl Schedule {
    /// For workers on the hosts from 2; the last of them is not killed.
    pub(super) fn new(seed: u64, hosts: u8, without: &[Fault]) -> Self {
        let kinds = (2..=hosts).map(|host| (host, Kind::of(host, hosts, without)));
        let mut schedule = Self {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            kinds: kinds.filter(|(_, kinds)| !kinds.is_empty()).collect(),
            turns: BinaryHeap::new(),
        };
        let links = (!without.contains(&Fault::Loss)).then_some(0);
        let hosts: Vec<u8> = links
            .into_iter()
            .chain(schedule.kinds.keys().copied())
            .collect();
        for host in hosts {
            let first = schedule.seconds(2.0, 12.0);
            schedule.turns.push(Reverse((first, host, None)));
        }
        schedule
    }

    /// When something happens next, since the beginning.
    pub(super) fn due(&self) -> Duration {
        self.turns
            .peek()
            .map_or(Duration::MAX, |Reverse((at, ..))| *at)
    }

    /// What happens then.
    pub(super) fn take(&mut self) -> (Duration, Action) {
        let Some(Reverse((at, host, begun))) = self.turns.pop() else {
            return (Duration::ZERO, Action::Lose(0.0));
        };
        let (pause, begins, action) = match (host, begun) {
            (0, _) => {
                let share = LOSSES[self.random.random_range(0..LOSSES.len())];
                (self.seconds(8.0, 20.0), None, Action::Lose(share))
            }
            (_, Some(kind)) => (self.seconds(4.0, 12.0), None, Action::End(kind, host)),
            (_, None) => {
                let kinds = &self.kinds[&host];
                let kind = kinds[self.random.random_range(0..kinds.len())];
                (
                    self.seconds(0.5, 5.0),
                    Some(kind),
                    Action::Begin(kind, host),
                )
            }
        };
        self.turns.push(Reverse((at + pause, host, begins)));
        (at, action)
    }

    fn seconds(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(self.random.random_range(least..most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(seed: u64) -> Vec<(Duration, Action)> {
        let mut schedule = Schedule::new(seed, 4, &[]);
        (0..500)
            .map(|_| {
                let due = schedule.due();
                let (at, action) = schedule.take();
                assert_eq!(at, due);
                (at, action)
            })
            .collect()
    }

    #[test]
    fn a_seed_says_what_happens() {
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
    }

    #[test]
    fn what_is_left_out_does_not_happen() {
        let without = |faults: &[Fault]| {
            let mut schedule = Schedule::new(3, 4, faults);
            (0..200).map(|_| schedule.take().1).collect::<Vec<_>>()
        };
        let cuts = without(&[Fault::Kill, Fault::Freeze, Fault::Loss]);
        assert!(cuts.iter().all(|action| matches!(
            action,
            Action::Begin(Kind::Cut, _) | Action::End(Kind::Cut, _)
        )));
        let kills = without(&[Fault::Cut, Fault::Freeze]);
        assert!(
            kills
                .iter()
                .all(|action| !matches!(action, Action::Begin(_, 4))),
            "nothing is left for the last host"
        );
        let nothing = [Fault::Kill, Fault::Freeze, Fault::Cut, Fault::Loss];
        assert_eq!(Schedule::new(3, 4, &nothing).due(), Duration::MAX);
    }

    #[test]
    fn what_begins_ends_and_one_thing_happens_at_a_time() {
        let mut under_way = BTreeMap::new();
        let mut before = Duration::ZERO;
        for (at, action) in some(7) {
            assert!(at >= before);
            before = at;
            match action {
                Action::Begin(kind, host) => {
                    assert!((2..=4).contains(&host));
                    assert!(
                        host < 4 || kind != Kind::Kill,
                        "the last host is not killed"
                    );
                    assert_eq!(under_way.insert(host, kind), None);
                }
                Action::End(kind, host) => assert_eq!(under_way.remove(&host), Some(kind)),
                Action::Lose(share) => assert!(LOSSES.contains(&share)),
            }
        }
    }
}
