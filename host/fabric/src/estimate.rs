//! How long and how lossy the way to another node is, from what has been observed.

use std::time::Duration;

/// Weight of a new observation of time: an eighth for the mean and a quarter for the deviation, as TCP has it
/// (RFC 6298), so that an outlier passes and a change is followed within some ten observations.
const MEAN_WEIGHT: f64 = 0.125;
const DEVIATION_WEIGHT: f64 = 0.25;

/// Deviations above the mean at which something is late.
const LATE_DEVIATIONS: f64 = 4.0;

/// Weight of one packet in an estimate of loss: it follows about the last 200 packets.
const LOSS_WEIGHT: f64 = 0.005;

/// An exponentially weighted mean, and the mean deviation from it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ewma {
    state: Option<(f64, f64)>,
}

impl Ewma {
    /// Takes in one observation.
    pub fn observe(&mut self, value: f64) {
        self.state = Some(match self.state {
            // One observation says nothing of the spread, so assume a wide one.
            None => (value, value / 2.0),
            Some((mean, deviation)) => {
                let difference = value - mean;
                (
                    mean + MEAN_WEIGHT * difference,
                    deviation + DEVIATION_WEIGHT * (difference.abs() - deviation),
                )
            }
        });
    }

    /// The mean, once anything has been observed.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        self.state.map(|(mean, _)| mean)
    }

    /// The mean deviation from the mean, once anything has been observed.
    #[must_use]
    pub fn deviation(&self) -> Option<f64> {
        self.state.map(|(_, deviation)| deviation)
    }
}

/// Observations of which the shortest is remembered.
const RECENT: usize = 16;

/// How long something takes that is done again and again: a round trip, or a worker's answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TimeEstimate {
    seconds: Ewma,
    recent: [Duration; RECENT],
    count: usize,
}

impl TimeEstimate {
    /// Takes in how long it took once.
    pub fn observe(&mut self, elapsed: Duration) {
        self.seconds.observe(elapsed.as_secs_f64());
        self.recent[self.count % RECENT] = elapsed;
        self.count += 1;
    }

    /// The shortest of the last 16 times: what it takes when nothing comes in between. The mean needs dozens of observations to get
    /// over one that was held up, such as the first on a new link.
    #[must_use]
    pub fn shortest(&self) -> Option<Duration> {
        self.recent.iter().take(self.count).min().copied()
    }

    /// The median of the last 16 times: what it usually takes, whatever a few of them met with.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let mut recent = self.recent[..self.count.min(RECENT)].to_vec();
        recent.sort_unstable();
        recent.get(recent.len() / 2).copied()
    }

    /// How long it takes in the mean.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        self.seconds.mean().map(Duration::from_secs_f64)
    }

    /// How far from the mean it is in the mean.
    #[must_use]
    pub fn spread(&self) -> Option<Duration> {
        self.seconds.deviation().map(Duration::from_secs_f64)
    }

    /// When it should be done: the mean and four times the spread. After that it is late.
    #[must_use]
    pub fn expected(&self) -> Option<Duration> {
        Some(self.mean()? + self.spread()?.mul_f64(LATE_DEVIATIONS))
    }
}

/// The share of packets lost lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossEstimate {
    share: Option<f64>,
    packets: u64,
}

impl LossEstimate {
    /// Takes in what became of some packets.
    pub fn observe(&mut self, received: u64, lost: u64) {
        let packets = received.saturating_add(lost);
        if packets == 0 {
            return;
        }
        self.packets = self.packets.saturating_add(packets);
        let share = lost as f64 / packets as f64;
        // Of the first packets all count alike, so that the first one does not decide for long.
        let weight = LOSS_WEIGHT.max((self.packets as f64).recip());
        let kept = (1.0 - weight).powf(packets as f64);
        self.share = Some(match self.share {
            None => share,
            Some(before) => before * kept + share * (1.0 - kept),
        });
    }

    /// The share, 0 to 1, once there were packets.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        self.share
    }
}

/// How far behind the newest packet an older one may be and still be recognised as late rather than foreign.
const WINDOW: u32 = 64;

/// A jump in the numbers that no loss explains: the other side has begun anew.
const RESTART: u32 = 1 << 16;

/// Finds out from the sequence numbers of a directed pair of nodes what was lost.
///
/// A gap counts as lost; a packet that fills it later, out of order, counts as received after all. Numbers begin
/// anywhere and wrap round.
#[derive(Debug, Clone, Default)]
pub struct SequenceTracker {
    /// The newest number, and which of the 64 up to it have come: bit `i` is `newest - i`.
    newest: Option<(u32, u64)>,
    received: u64,
    lost: u64,
    estimate: LossEstimate,
}

impl SequenceTracker {
    /// Takes in the number of a packet that has come.
    pub fn observe(&mut self, sequence: u32) {
        let Some((newest, seen)) = self.newest else {
            self.start(sequence);
            return;
        };
        let ahead = sequence.wrapping_sub(newest);
        let behind = newest.wrapping_sub(sequence);
        if (1..RESTART).contains(&ahead) {
            let lost = u64::from(ahead - 1);
            let seen = seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.newest = Some((sequence, seen));
            self.received += 1;
            self.lost += lost;
            self.estimate.observe(1, lost);
        } else if behind < WINDOW {
            let bit = 1 << behind;
            // Only what was counted as lost before has no bit: those before the first packet all have one.
            if seen & bit == 0 {
                self.newest = Some((newest, seen | bit));
                self.received += 1;
                self.lost = self.lost.saturating_sub(1);
                self.estimate.observe(1, 0);
            }
        } else if behind >= RESTART {
            self.start(sequence);
        }
        // What remains is too late to tell from a packet seen twice.
    }

    /// Begins at a number, with nothing before it known or missed.
    fn start(&mut self, sequence: u32) {
        self.newest = Some((sequence, u64::MAX));
        self.received += 1;
        self.estimate.observe(1, 0);
    }

    /// Packets received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Packets lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The share lost lately.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        self.estimate.share()
    }
}

/// What is known of the way to another node and back.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Mean time of a packet there and one back, in microseconds.
    pub round_trip_us: Option<f64>,
    /// Mean deviation from it, in microseconds.
    pub spread_us: Option<f64>,
    /// The shortest lately, in microseconds.
    pub shortest_us: Option<f64>,
    /// The median lately, in microseconds.
    pub median_us: Option<f64>,
    /// Share of our packets that the other node has lost lately, by its own account.
    pub loss_to: Option<f64>,
    /// Share of its packets that we have lost lately.
    pub loss_from: Option<f64>,
    /// How long ago any valid packet came from it.
    pub last_heard: Option<Duration>,
}

impl Estimate {
    /// Share of exchanges of one packet there and one back that lose either. What is not known counts as not lost.
    pub fn loss_both_ways(&self) -> f64 {
        1.0 - (1.0 - self.loss_to.unwrap_or(0.0)) * (1.0 - self.loss_from.unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests;
