//! A figure that is followed as it changes, but not up and down.

use std::time::Duration;

use tokio::time::Instant;

/// By how much a figure has to differ to count as another.
const CLEARLY: f64 = 1.25;

/// How long a figure has to be better before that is believed: at first, and at most.
const SHORTEST_REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// Something of which more is worse: time, or loss.
///
/// What is clearly worse twice in a row is believed. What is better is believed after a rest, which doubles each time that it has
/// become worse: a device with bounded time on its cores is fast for as long as it has little to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Followed {
    value: f64,
    /// Differences up to this do not count.
    floor: f64,
    worse: Option<f64>,
    better: Option<Instant>,
    rest: Duration,
}

impl Followed {
    pub(crate) fn new(value: f64, floor: f64) -> Self {
        Self {
            value,
            floor,
            worse: None,
            better: None,
            rest: SHORTEST_REST,
        }
    }

    pub(crate) fn value(&self) -> f64 {
        self.value
    }

    /// Takes in what is observed. True if that is another value from now on.
    pub(crate) fn observe(&mut self, seen: f64, now: Instant) -> bool {
        let worse = self.worse.take();
        let better = self.better.take();
        if seen > self.value * CLEARLY + self.floor {
            let Some(before) = worse else {
                self.worse = Some(seen);
                return false;
            };
            self.rest = (2 * self.rest).min(LONGEST_REST);
            self.value = before.midpoint(seen);
            return true;
        }
        if seen * CLEARLY + self.floor < self.value {
            let since = better.unwrap_or(now);
            if now.duration_since(since) < self.rest {
                self.better = Some(since);
                return false;
            }
            self.value = seen;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_is_believed_the_second_time_and_better_after_a_rest_that_grows() {
        let mut now = Instant::now();
        let mut figure = Followed::new(1.0, 0.0);
        let mut observe = |seen: f64, times: usize| {
            let mut changes = Vec::new();
            for time in 0..times {
                now += Duration::from_secs(1);
                if figure.observe(seen, now) {
                    changes.push(time);
                }
            }
            (changes, figure.value())
        };
        assert_eq!(observe(1.2, 100), (vec![], 1.0));
        assert_eq!(observe(4.0, 1), (vec![], 1.0));
        assert_eq!(observe(1.0, 1), (vec![], 1.0), "once is chance");
        assert_eq!(observe(4.0, 100), (vec![1], 4.0));
        // Twice the first rest.
        assert_eq!(observe(1.0, 100), (vec![10], 1.0));
        assert_eq!(observe(4.0, 2), (vec![1], 4.0));
        assert_eq!(observe(1.0, 19), (vec![], 4.0));
        assert_eq!(observe(4.0, 1), (vec![], 4.0), "the rest begins anew");
        assert_eq!(observe(1.0, 100), (vec![20], 1.0));
    }

    #[test]
    fn small_differences_of_small_figures_do_not_count() {
        let now = Instant::now();
        let mut figure = Followed::new(0.01, 0.03);
        for seen in [0.0, 0.04, 0.04, 0.0] {
            assert!(!figure.observe(seen, now));
        }
        assert!(!figure.observe(0.2, now));
        assert!(figure.observe(0.1, now));
        assert!((figure.value() - 0.15).abs() < 1e-9);
    }
}
