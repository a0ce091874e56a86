use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long tokens took, measured several times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Seconds a token took, averaged over the tokens of one measurement, for each measurement.
    pub seconds: Vec<f64>,
}

impl Timing {
    /// Runs `work`, which is about `tokens` tokens, and keeps how long it took.
    pub(super) fn measure<E>(
        &mut self,
        tokens: usize,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let began = Instant::now();
        work()?;
        self.push(tokens, began.elapsed());
        Ok(())
    }

    fn push(&mut self, tokens: usize, took: Duration) {
        self.seconds.push(took.as_secs_f64() / tokens as f64);
    }

    /// Tokens per second: the median over the measurements, the lowest and the highest. `None` without a measurement.
    pub fn tokens_per_second(&self) -> Option<[f64; 3]> {
        let mut rates: Vec<f64> = self.seconds.iter().map(|s| s.recip()).collect();
        rates.sort_by(f64::total_cmp);
        Some([median(&rates)?, *rates.first()?, *rates.last()?])
    }

    /// This time as a share of `other`'s: the median over the measurements that were made in turns.
    pub fn share_of(&self, other: &Self) -> Option<f64> {
        let pairs = self.seconds.iter().zip(&other.seconds);
        let mut shares: Vec<f64> = pairs.map(|(a, b)| a / b).collect();
        shares.sort_by(f64::total_cmp);
        median(&shares)
    }
}

/// The middle of sorted values, or the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + upper) / 2.0
    } else {
        upper
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_over_measurements() {
        let mut timing = Timing::default();
        assert_eq!(timing.tokens_per_second(), None);
        assert_eq!(timing.share_of(&timing), None);
        for milliseconds in [1000, 4000, 2000] {
            timing.push(20, Duration::from_millis(milliseconds));
        }
        assert_eq!(timing.tokens_per_second(), Some([10.0, 5.0, 20.0]));
        // The pairs' shares, not the share of the medians: 0.5, 0.25, 0.1.
        let other = Timing {
            seconds: vec![0.1, 0.8, 1.0],
        };
        assert_eq!(timing.share_of(&other), Some(0.25));
        let two = Timing {
            seconds: vec![0.1, 0.2],
        };
        assert_eq!(two.tokens_per_second(), Some([7.5, 5.0, 10.0]));
    }
}
