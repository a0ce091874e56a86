//! A worker's times by the leader's clock.

use std::collections::HashMap;

use super::Span;

/// The rounds that both took part in: the leader's span of one begins before the worker's, and ends after it.
const ROUND: &str = "round";

/// Moves a worker's spans to the leader's clock, by the middle of what all rounds allow. The tightest rounds bound it on both sides,
/// so that it is wrong by less than half of what the fastest packets took there and back.
pub(super) fn align(leader: &[Span], worker: &mut [Span]) {
    let rounds: HashMap<_, _> = leader.iter().filter_map(|s| Some((name(s)?, s))).collect();
    let (mut least, mut most) = (i64::MIN, i64::MAX);
    for span in &*worker {
        let Some(round) = name(span).and_then(|name| rounds.get(&name)) else {
            continue;
        };
        least = least.max(round.begin - span.begin);
        most = most.min(round.begin + round.duration - span.begin - span.duration);
    }
    if least == i64::MIN {
        return;
    }
    // Clocks that drift apart may leave nothing between; the middle is the best there is then, too.
    let offset = least / 2 + most / 2;
    worker.iter_mut().for_each(|span| span.begin += offset);
}

/// Which round a span is of.
fn name(span: &Span) -> Option<(u64, u64, u64)> {
    let of = |key: &str| span.of.get(key).copied();
    (span.name == ROUND)
        .then(|| Some((of("generation")?, of("step")?, of("layer")?)))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(layer: u64, begin: i64, duration: i64) -> Span {
        let of = [("generation", 7), ("step", 1), ("layer", layer)];
        Span {
            name: ROUND.into(),
            thread: String::new(),
            begin,
            duration,
            of: of.map(|(k, v)| (k.to_owned(), v)).into(),
        }
    }

    #[test]
    fn rounds_bring_clocks_together() {
        let leader = [round(0, 1000, 500), round(1, 2000, 900)];
        // The worker's clock is 100,000 ahead; the way there takes 100, the way back 60.
        let mut worker = [
            round(0, 101_100, 340),
            round(1, 102_400, 300),
            round(2, 109_000, 1),
        ];
        align(&leader, &mut worker);
        assert_eq!(worker[0].begin, 1100 - 20);
        assert_eq!(worker[1].begin, 2400 - 20);
        assert_eq!(worker[2].begin, 9000 - 20);
    }

    #[test]
    fn without_common_rounds_nothing_moves() {
        let mut worker = [round(0, 5, 6)];
        align(&[round(1, 1, 2)], &mut worker);
        assert_eq!(worker, [round(0, 5, 6)]);
    }
}
