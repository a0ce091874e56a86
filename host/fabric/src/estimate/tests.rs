use super::*;

#[test]
fn time_settles_on_the_mean_and_spread() {
    let mut time = TimeEstimate::default();
    assert_eq!(time.expected(), None);
    time.observe(Duration::from_millis(8));
    assert_eq!(time.mean(), Some(Duration::from_millis(8)));
    assert_eq!(time.spread(), Some(Duration::from_millis(4)));
    assert_eq!(time.expected(), Some(Duration::from_millis(24)));
    for i in 0..400 {
        time.observe(Duration::from_millis(if i % 2 == 0 { 4 } else { 6 }));
    }
    let micros = |d: Option<Duration>| d.unwrap().as_micros();
    assert!((4800..5200).contains(&micros(time.mean())));
    assert!((900..1200).contains(&micros(time.spread())));
}

#[test]
fn one_outlier_passes() {
    let mut time = TimeEstimate::default();
    for _ in 0..100 {
        time.observe(Duration::from_millis(1));
    }
    time.observe(Duration::from_millis(100));
    for _ in 0..40 {
        time.observe(Duration::from_millis(1));
    }
    assert!(time.mean().unwrap() < Duration::from_millis(2));
    assert!(time.spread().unwrap() < Duration::from_millis(1));
}

fn track(sequences: impl IntoIterator<Item = u32>) -> (u64, u64) {
    let mut tracker = SequenceTracker::default();
    for sequence in sequences {
        tracker.observe(sequence);
    }
    (tracker.received(), tracker.lost())
}

#[test]
fn gaps_are_losses() {
    assert_eq!(track([]), (0, 0));
    assert_eq!(track([7, 8, 9]), (3, 0));
    assert_eq!(track([7, 9, 13]), (3, 4));
    assert_eq!(track([0, 1000]), (2, 999));
}

#[test]
fn late_packets_are_no_losses() {
    assert_eq!(track([1, 3, 2, 4]), (4, 0));
    assert_eq!(track([1, 5, 2, 3, 4]), (5, 0));
    assert_eq!(track([1, 5, 4, 6]), (4, 2));
}

#[test]
fn a_packet_twice_counts_once() {
    assert_eq!(track([1, 2, 2, 1, 3]), (3, 0));
    assert_eq!(track([1, 3, 2, 2, 2]), (3, 0));
    // Older than the first one ever seen: nobody missed it.
    assert_eq!(track([5, 4, 3, 6]), (2, 0));
}

#[test]
fn too_late_is_lost() {
    assert_eq!(track([0, 1, 200, 2]), (3, 198));
}

#[test]
fn numbers_wrap_round() {
    assert_eq!(track([u32::MAX - 1, u32::MAX, 0, 1]), (4, 0));
    assert_eq!(track([u32::MAX, 2, 0, 1]), (4, 0));
    assert_eq!(track([u32::MAX - 1, 1]), (2, 2));
}

#[test]
fn a_node_that_begins_anew_has_lost_nothing() {
    assert_eq!(track([10, 11, 3_000_000_000, 3_000_000_001]), (4, 0));
    assert_eq!(track([3_000_000_000, 10, 11, 13]), (4, 1));
}

#[test]
fn loss_follows_the_last_packets() {
    let mut tracker = SequenceTracker::default();
    assert_eq!(tracker.share(), None);
    for sequence in (0..20_000_u32).filter(|s| s % 10 != 3) {
        tracker.observe(sequence);
    }
    assert_eq!((tracker.received(), tracker.lost()), (18_000, 2_000));
    assert!((tracker.share().unwrap() - 0.1).abs() < 0.02);
    for sequence in 20_000..22_000 {
        tracker.observe(sequence);
    }
    assert!(tracker.share().unwrap() < 0.001);
}

#[test]
fn the_first_packets_count_alike() {
    let mut loss = LossEstimate::default();
    loss.observe(0, 0);
    assert_eq!(loss.share(), None);
    loss.observe(0, 1);
    assert_eq!(loss.share(), Some(1.0));
    for _ in 0..9 {
        loss.observe(1, 0);
    }
    assert!((loss.share().unwrap() - 0.1).abs() < 1e-9);
}

#[test]
fn the_shortest_and_the_median_are_of_the_last_observations() {
    let mut time = TimeEstimate::default();
    assert_eq!((time.shortest(), time.median()), (None, None));
    time.observe(Duration::from_millis(20));
    time.observe(Duration::from_millis(3));
    assert_eq!(time.shortest(), Some(Duration::from_millis(3)));
    for _ in 0..15 {
        time.observe(Duration::from_millis(5));
    }
    assert_eq!(time.shortest(), Some(Duration::from_millis(3)));
    time.observe(Duration::from_millis(5));
    assert_eq!(time.shortest(), Some(Duration::from_millis(5)));
    for outlier in 1..=7 {
        time.observe(Duration::from_secs(outlier));
    }
    assert_eq!(time.median(), Some(Duration::from_millis(5)));
}
