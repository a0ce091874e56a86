//! Whether a placement is as good as it was expected to be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::passes::Passes;
use crate::plan::Plan;

/// How long before a placement tokens are looked at: since devices were found to have changed, and no longer.
const BEFORE: Duration = Duration::from_secs(1);

/// Passes that say how long a token takes: before, and with the placement.
const FEW: usize = 3;
const ENOUGH: usize = 12;

/// A token has to take this many times as long for the placement to have made it slower.
const SLOWER: f64 = 1.1;

/// A placement that was made because devices seemed to have changed. What it was made from are estimates; what tells in the end is
/// how fast tokens come.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The placement before it.
    pub(crate) previous: Arc<Plan>,
    /// How long a token took then.
    pub(crate) before: Duration,
}

impl Trial {
    /// Begins one, while the placement that there is still is in force. `None` if too few tokens came lately to compare with.
    pub(crate) fn begin(previous: &Arc<Plan>, passes: &Passes, now: Instant) -> Option<Self> {
        let before = passes.median(previous.epoch, now.checked_sub(BEFORE), FEW)?;
        Some(Self {
            previous: Arc::clone(previous),
            before,
        })
    }

    /// How long a token takes with the new placement, and whether that is longer than before; once it is known.
    pub(crate) fn end(&self, epoch: u32, passes: &Passes) -> Option<(Duration, bool)> {
        let after = passes.median(epoch, None, ENOUGH)?;
        Some((after, after > self.before.mul_f64(SLOWER)))
    }
}

#[cfg(test)]
mod tests {
    use halo_policy::Placement;

    use super::*;

    #[test]
    fn a_placement_is_compared_with_the_one_before() {
        let passes = Passes::default();
        let mut now = Instant::now();
        let mut run = |epoch, count, millis| {
            for _ in 0..count {
                passes.begin(epoch, 1, now);
                now += Duration::from_millis(millis);
            }
            now
        };
        let devices = vec!["a".parse().unwrap()];
        let plan = Arc::new(Plan::new(7, devices, Placement::default(), 0, 0));
        // It was fast until two seconds ago.
        run(7, 40, 10);
        let end = run(7, 20, 100);
        let trial = Trial::begin(&plan, &passes, end).unwrap();
        assert_eq!(trial.before.as_millis(), 100);
        let end = run(8, ENOUGH, 105);
        assert_eq!(trial.end(8, &passes), None, "one is under way");
        run(8, 1, 105);
        assert!(matches!(trial.end(8, &passes), Some((_, false))));
        run(8, 2 * ENOUGH, 115);
        assert!(matches!(trial.end(8, &passes), Some((_, true))));
        assert!(Trial::begin(&plan, &passes, end).is_none());
    }
}
