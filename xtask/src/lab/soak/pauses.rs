//! For how long tokens stayed away after something had happened.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::generation::{Generation, Mode};
use super::schedule::Kind;

/// A pause that begins later than this has another reason.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// The longest pause after each thing that happened while tokens flowed, in seconds; and between tokens otherwise.
#[derive(Default)]
pub(super) struct Pauses {
    after: BTreeMap<(Mode, Kind), Vec<f64>>,
    all: BTreeMap<Mode, Vec<f64>>,
}

impl Pauses {
    pub(super) fn take(&mut self, mode: Mode, generation: &Generation) {
        let times: Vec<Instant> = generation.times().collect();
        let all = times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64());
        self.all.entry(mode).or_default().extend(all);
        for (at, kind) in &generation.disturbances {
            if let Some(pause) = longest(&times, *at) {
                self.after.entry((mode, *kind)).or_default().push(pause);
            }
        }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("longest pause after a worker was ..., in seconds\n");
        let mut row = |name: &str, seconds: &[f64]| {
            let mut sorted = seconds.to_vec();
            sorted.sort_by(f64::total_cmp);
            let (median, most) = (sorted.get(sorted.len() / 2), sorted.last());
            if let (Some(median), Some(most)) = (median, most) {
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "  {name:<22} {:>6} times  median {median:.3}  most {most:.3}",
                    sorted.len()
                );
            }
        };
        for ((mode, kind), seconds) in &self.after {
            row(&format!("{}, {}", mode.name(), kind.name()), seconds);
        }
        for (mode, seconds) in &self.all {
            row(&format!("{}, any two tokens", mode.name()), seconds);
        }
        text
    }
}

/// The longest time between two tokens of which some is after `at`, and the beginning not long after it. Nothing if no token came
/// before, or none after.
fn longest(times: &[Instant], at: Instant) -> Option<f64> {
    if *times.first()? > at {
        return None;
    }
    let near = times
        .windows(2)
        .filter(|pair| pair[1] > at && pair[0] <= at + AFTERWARDS);
    near.map(|pair| (pair[1] - pair[0]).as_secs_f64())
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_is_found_where_something_happened() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let times = [100, 200, 300, 1300, 1400, 2260, 6000, 9000].map(at);
        let milliseconds = |ms| longest(&times, at(ms)).map(|s| (s * 1e3).round() as u64);
        assert_eq!(milliseconds(250), Some(1000));
        assert_eq!(milliseconds(1250), Some(3740), "it began soon after");
        assert_eq!(milliseconds(50), None, "no token had come");
        assert_eq!(milliseconds(9000), None, "none came");
    }
}
