//! How long a leader's passes take while decoding: what a token takes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Passes that are remembered.
const MOST: usize = 64;

/// The last passes of one row, from the beginning of each to that of the next, on one placement.
#[derive(Debug, Default)]
pub(crate) struct Passes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    epoch: u32,
    /// When the pass that is under way began.
    began: Option<Instant>,
    /// When each was over, and how long it took.
    took: VecDeque<(Instant, Duration)>,
}

impl Passes {
    /// A pass of so many rows begins on a placement.
    pub(crate) fn begin(&self, epoch: u32, rows: usize, now: Instant) {
        let mut state = self.lock();
        if state.epoch != epoch {
            // Of the pass under way a part was on another placement.
            *state = State {
                epoch,
                ..State::default()
            };
        }
        if let Some(began) = state.began.take() {
            state.took.push_back((now, now.duration_since(began)));
            if state.took.len() > MOST {
                state.took.pop_front();
            }
        }
        state.began = (rows == 1).then_some(now);
    }

    /// The median on a placement of those that were over after `since`, if there were at least so many. One that waited long, for
    /// whoever asks for texts, makes little difference to it.
    pub(crate) fn median(
        &self,
        epoch: u32,
        since: Option<Instant>,
        at_least: usize,
    ) -> Option<Duration> {
        let state = self.lock();
        let wanted = |end: Instant| since.is_none_or(|since| end >= since);
        let took = state.took.iter().filter(|(end, _)| wanted(*end));
        let mut took: Vec<Duration> = took.map(|(_, took)| *took).collect();
        if state.epoch != epoch || took.len() < at_least {
            return None;
        }
        took.sort_unstable();
        took.get(took.len() / 2).copied()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_of_one_row_on_one_placement_count() {
        let passes = Passes::default();
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let median = |epoch, since, at_least| {
            let median = passes.median(epoch, since, at_least);
            median.map(|took| took.as_millis())
        };
        // 10 ms each, then of a prompt, then 20 ms each, with one that waited.
        for (rows, millis) in [(1, 0), (1, 10), (32, 20), (1, 500), (1, 520), (1, 540)] {
            passes.begin(1, rows, at(millis));
        }
        passes.begin(1, 1, at(9540));
        assert_eq!(median(1, None, 5), Some(20));
        assert_eq!(median(1, Some(at(521)), 2), Some(9000));
        assert_eq!(median(1, None, 6), None);
        assert_eq!(median(2, None, 1), None);
        passes.begin(2, 1, at(9550));
        assert_eq!(median(2, None, 1), None);
        passes.begin(2, 1, at(9557));
        assert_eq!(median(2, None, 1), Some(7));
        for pass in 0..1000 {
            passes.begin(2, 1, at(10_000 + pass));
        }
        assert_eq!(median(2, None, MOST), Some(1));
        assert_eq!(median(2, None, MOST + 1), None);
    }
}
