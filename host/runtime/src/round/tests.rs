use halo_fabric::{Encoding, Kind, WINDOW};
use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_millis(5);
const BOUND: Duration = Duration::from_millis(100);

/// One row of 1,024 exact floats: several chunks.
fn shape() -> TensorShape {
    TensorShape::new(1, 1024, Encoding::F32).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A round of workers that are expected after 1 ms; each needed or not.
fn round(needed: &[bool]) -> Round {
    Round::new(
        shape(),
        needed.iter().map(|n| (*n, ms(1))),
        Repair::ADAPTIVE,
        PATIENCE,
        BOUND,
    )
}

fn deliver(round: &mut Round, debtor: usize, chunk: u16, flags: u8, now: Duration) -> Accepted {
    let values: Vec<f32> = (0..1024).map(|i| i as f32).collect();
    let mut body = Vec::new();
    shape().encode_chunk(chunk, &values, &mut body);
    let header = Header {
        flags,
        ..header(chunk)
    };
    round.accept(debtor, &header, &body, now)
}

fn header(chunk: u16) -> Header {
    Header {
        chunk,
        ..Header::of_tensor(Kind::Partial, &shape())
    }
}

fn deliver_all(round: &mut Round, debtor: usize, flags: u8, now: Duration) {
    (0..shape().chunks())
        .for_each(|chunk| assert_eq!(deliver(round, debtor, chunk, flags, now), Accepted::New));
}

#[test]
fn over_when_everything_has_come() {
    let mut round = round(&[true, true]);
    assert_eq!(round.standing(ms(0)), Standing::Waiting(ms(1)));
    deliver_all(&mut round, 0, 0, ms(0));
    assert_eq!(round.standing(ms(0)), Standing::Waiting(ms(1)));
    deliver_all(&mut round, 1, 0, ms(1));
    assert_eq!(round.standing(ms(1)), Standing::Over);
    assert!(round.complete());
    assert_eq!((round.took(0), round.took(1)), (Some(ms(0)), Some(ms(1))));
    assert!(round.due(ms(50)).is_empty());
}

#[test]
fn asks_for_everything_or_for_what_is_missing_ever_less_often() {
    let mut round = round(&[true, true]);
    assert!(round.due(Duration::from_micros(999)).is_empty());
    deliver(&mut round, 1, 0, 0, ms(0));
    assert_eq!(round.due(ms(1)), [(0, Ask::Everything), (1, Ask::Missing)]);
    assert!(round.due(ms(1)).is_empty(), "just asked");
    assert_eq!(
        round.standing(ms(1)),
        Standing::Waiting(Duration::from_micros(2500))
    );
    let mut asked = Vec::new();
    for tenth in 10..1000 {
        let now = Duration::from_micros(100 * tenth);
        asked.extend(
            round
                .due(now)
                .iter()
                .filter(|(d, _)| *d == 0)
                .map(|_| tenth),
        );
    }
    let waits: Vec<u64> = asked.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(waits.windows(2).all(|w| w[0] <= w[1]), "{waits:?}");
    assert!((5..15).contains(&round.asked(0)), "{}", round.asked(0));
}

#[test]
fn patience_ends_before_the_bound_unless_somebody_is_needed() {
    let mut relaxed = round(&[false, true]);
    assert_ne!(relaxed.standing(PATIENCE), Standing::Over);
    deliver_all(&mut relaxed, 1, 0, ms(1));
    assert_ne!(
        relaxed.standing(PATIENCE - Duration::from_micros(1)),
        Standing::Over
    );
    assert_eq!(relaxed.standing(PATIENCE), Standing::Over);
    assert!(relaxed.suspects(BOUND).is_empty(), "nobody needed it");
    assert!(!relaxed.complete());
}

#[test]
fn who_is_needed_and_silent_at_the_bound_is_suspected() {
    let mut round = round(&[true, true, true]);
    deliver_all(&mut round, 0, 0, ms(1));
    round.gone(2);
    assert!(round.suspects(BOUND - ms(1)).is_empty());
    assert_eq!(round.standing(BOUND), Standing::Over);
    assert_eq!(round.suspects(BOUND), [1]);
}

#[test]
fn the_gone_are_not_waited_for_but_what_came_of_them_counts() {
    let mut round = round(&[true]);
    deliver(&mut round, 0, 1, 0, ms(0));
    round.gone(0);
    assert_eq!(round.standing(ms(0)), Standing::Over);
    assert!(round.due(BOUND).is_empty());
    assert_eq!(round.assembly(0).missing_count(), shape().chunks() - 1);
}

#[test]
fn time_is_taken_from_the_asking_that_was_answered() {
    let mut round = round(&[true, true, true]);
    deliver(&mut round, 2, 0, 0, ms(0));
    let due = round.due(ms(2));
    assert_eq!(due.len(), 3);
    deliver_all(&mut round, 0, 1, ms(3));
    assert_eq!(
        round.took(0),
        Some(ms(1)),
        "an answer to the second sending"
    );
    deliver_all(&mut round, 1, 0, ms(3));
    assert_eq!(round.took(1), Some(ms(3)), "a late answer to the first");
    (1..shape().chunks())
        .for_each(|chunk| assert_eq!(deliver(&mut round, 2, chunk, 0, ms(3)), Accepted::New));
    assert_eq!(
        round.took(2),
        None,
        "mended: nothing says when its last chunk was asked for"
    );
}

#[test]
fn an_asking_number_that_never_was_gives_no_time() {
    let mut round = round(&[true]);
    deliver_all(&mut round, 0, 60, ms(1));
    assert!(round.complete());
    assert_eq!(round.took(0), None);
}

#[test]
fn a_worker_that_begins_late_is_given_time() {
    let mut round = round(&[true]);
    assert_eq!(round.due(ms(1)).len(), 1);
    round.restarted(0, ms(2));
    assert!(round.due(Duration::from_micros(3400)).is_empty());
    assert_eq!(round.due(Duration::from_micros(3500)).len(), 1);
}

#[test]
fn what_is_lost_before_the_last_packet_is_asked_for_at_once() {
    let mut prompt = round(&[true]);
    deliver(&mut prompt, 0, 0, 0, ms(0));
    assert_eq!(
        prompt.stalled(0, &header(0), ms(0)),
        None,
        "more is under way"
    );
    let last = shape().chunks() - 1;
    deliver(&mut prompt, 0, last, 0, ms(0));
    assert_eq!(prompt.stalled(0, &header(last), ms(0)), Some(Ask::Missing));
    assert_eq!(prompt.asked(0), 1);
    assert!(prompt.due(Duration::from_micros(999)).is_empty());

    let mut like_tcp = Round::new(shape(), [(true, ms(1))], Repair::LIKE_TCP, BOUND, BOUND);
    deliver(&mut like_tcp, 0, last, 0, ms(0));
    assert_eq!(like_tcp.stalled(0, &header(last), ms(0)), None);
}

#[test]
fn what_is_beyond_the_window_is_wanted_when_the_window_has_come() {
    let shape = TensorShape::new(WINDOW.into(), 1024, Encoding::F32).unwrap();
    let debtors = [(true, ms(1))];
    let mut round = Round::new(shape, debtors, Repair::ADAPTIVE, BOUND, BOUND);
    let of_tensor = Header::of_tensor(Kind::Partial, &shape);
    for chunk in 0..WINDOW {
        let body = vec![0; shape.chunk_bytes(chunk)];
        let header = Header { chunk, ..of_tensor };
        round.accept(0, &header, &body, ms(0));
        let ask = (chunk == WINDOW - 1).then_some(Ask::Next);
        assert_eq!(round.stalled(0, &header, ms(0)), ask);
    }
    assert_eq!(round.assembly_mut(0).ask().unwrap().0, WINDOW);
}

#[test]
fn like_tcp_does_nothing_for_200_ms() {
    let mut round = Round::new(
        shape(),
        [(true, ms(1))],
        Repair::LIKE_TCP,
        BOUND,
        Duration::from_secs(10),
    );
    assert!(round.due(ms(199)).is_empty());
    assert_eq!(round.due(ms(200)).len(), 1);
    assert!(round.due(ms(599)).is_empty());
    assert_eq!(round.due(ms(600)).len(), 1);
}

proptest! {
    /// Whatever comes, in whatever order, a round ends at its bound, never before what is needed has come, and its values
    /// are those that were delivered.
    #[test]
    fn every_course_ends(
        needed in prop::collection::vec(any::<bool>(), 1..4),
        events in prop::collection::vec((0usize..4, 0u16..5, any::<u8>(), 0u64..20_000, any::<bool>()), 0..60),
    ) {
        let mut round = round(&needed);
        let mut now = Duration::ZERO;
        for (debtor, chunk, flags, pause, gone) in events {
            now += Duration::from_micros(pause);
            let debtor = debtor % needed.len();
            if gone && chunk == 0 {
                round.gone(debtor);
            } else if chunk < shape().chunks() {
                prop_assert!(matches!(deliver(&mut round, debtor, chunk, flags, now), Accepted::New | Accepted::Duplicate));
            }
            for (asked, ask) in round.due(now) {
                prop_assert_eq!(ask == Ask::Everything, round.assembly(asked).missing_count() == shape().chunks());
                prop_assert!(!round.assembly(asked).complete());
            }
            match round.standing(now) {
                Standing::Waiting(until) => prop_assert!(until > now && until <= BOUND),
                Standing::Over => {
                    let open = |d: &Debt| d.needed && !d.gone && !d.assembly.complete();
                    prop_assert!(now >= BOUND || !round.debts.iter().any(open));
                }
            }
            for (i, value) in round.assembly(debtor).values().iter().enumerate() {
                prop_assert!(*value == 0.0 || *value == i as f32);
            }
        }
        prop_assert_eq!(round.standing(BOUND), Standing::Over);
    }
}
