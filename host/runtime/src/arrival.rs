//! When a worker's partial may be expected.

use std::collections::BTreeMap;
use std::time::Duration;

use halo_fabric::NodeId;

/// Before anything is known.
const UNKNOWN: Duration = Duration::from_millis(20);

/// Weight of a new sample; as TCP does for its round-trip time (RFC 6298), with more weight since rounds come by the thousand
/// and a worker's speed may change at once.
const GAIN: f64 = 0.125;

/// Expected arrival times of workers' partials, from the moment of sending: a mean and a mean deviation for each worker and
/// size of round. Computing many rows takes longer than computing one.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(BTreeMap<(NodeId, u32), Arrival>);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    mean: f64,
    deviation: f64,
}

impl Arrivals {
    /// Learns from one answer.
    pub(crate) fn observe(&mut self, worker: &NodeId, rows: usize, took: Duration) {
        let took = took.as_secs_f64();
        self.0
            .entry((worker.clone(), size(rows)))
            .and_modify(|a| {
                a.deviation += GAIN * ((took - a.mean).abs() - a.deviation);
                a.mean += GAIN * (took - a.mean);
            })
            .or_insert(Arrival {
                mean: took,
                deviation: took / 2.0,
            });
    }

    /// What is known of a worker's answers to rounds of this size; of the next smaller size if nothing.
    pub(crate) fn of(&self, worker: &NodeId, rows: usize) -> Arrival {
        let sizes = (worker.clone(), 0)..=(worker.clone(), size(rows));
        let known = self.0.range(sizes).next_back().map(|(_, a)| *a);
        known.unwrap_or(Arrival {
            mean: UNKNOWN.as_secs_f64(),
            deviation: 0.0,
        })
    }
}

impl Arrival {
    pub(crate) fn mean(self) -> Duration {
        Duration::from_secs_f64(self.mean)
    }

    pub(crate) fn spread(self) -> Duration {
        Duration::from_secs_f64(self.deviation)
    }

    /// A time by which nearly every answer that comes has come.
    pub(crate) fn late(self) -> Duration {
        Duration::from_secs_f64(self.mean + 4.0 * self.deviation)
    }
}

/// Rounds with the same number of bits in their row count count as of one size.
fn size(rows: usize) -> u32 {
    usize::BITS - rows.leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converges_by_worker_and_size() {
        let (a, b): (NodeId, NodeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.of(&a, 1).late(), UNKNOWN);
        for i in 0..200 {
            arrivals.observe(&a, 1, Duration::from_micros(900 + 200 * (i % 2)));
            arrivals.observe(&a, 32, Duration::from_millis(8));
        }
        let one = arrivals.of(&a, 1);
        assert!((950..=1050).contains(&one.mean().as_micros()), "{one:?}");
        assert!((80..=120).contains(&one.spread().as_micros()), "{one:?}");
        assert_eq!(arrivals.of(&a, 33).mean(), arrivals.of(&a, 32).mean());
        assert_eq!(arrivals.of(&a, 8).mean(), one.mean());
        assert_eq!(arrivals.of(&b, 8).late(), UNKNOWN);
    }
}
