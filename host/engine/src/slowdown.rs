use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How many times as long as it could this machine takes for a product, to see what a cluster makes of slower machines.
///
/// A bound on a process's time on its cores, by a control group, is no such thing: what takes less than a millisecond, as a device's
/// part of a round does, is done at full speed, and then nothing for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slowdown(f64);

impl Slowdown {
    /// `None`, and what would make it faster or is no number: as fast as it is. A thousand times as long is the most.
    pub(crate) fn new(times: Option<f64>) -> Self {
        let slower = times.filter(|times| *times > 1.0);
        Self(slower.map_or(1.0, |times| times.min(1000.0)))
    }

    /// Computes, and then does nothing until as many times as much time as that has taken is over.
    ///
    /// Counted in this thread's time on a core, so that waiting for a core that others are on is not made longer as well: several
    /// slow machines are run on the cores of one.
    pub(crate) fn run<T>(self, compute: impl FnOnce() -> T) -> T {
        if self.0 <= 1.0 {
            return compute();
        }
        let (began, before) = (Instant::now(), thread_time());
        let value = compute();
        let used = thread_time().saturating_sub(before);
        thread::sleep(used.mul_f64(self.0).saturating_sub(began.elapsed()));
        value
    }
}

/// Time that this thread has had on a core.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative.
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_time_takes_more_of_it() {
        let busy = || {
            let before = thread_time();
            while thread_time() - before < Duration::from_millis(3) {}
        };
        let began = Instant::now();
        Slowdown::new(Some(4.0)).run(busy);
        assert!(began.elapsed() >= Duration::from_millis(12));
        for none in [0.5, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(Slowdown::new(Some(none)), Slowdown::new(None));
        }
        Slowdown::new(Some(f64::INFINITY)).run(|| ());
    }
}
