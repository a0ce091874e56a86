use proptest::prelude::*;

use super::*;

/// A sampler at temperature 1.
fn warm() -> Sampling {
    Sampling {
        temperature: 1.0,
        seed: 7,
        ..Sampling::default()
    }
}

fn next(sampling: &Sampling, prompt: &[u32], logits: &[f32]) -> Option<u32> {
    Sampler::new(sampling.clone(), prompt).next(&mut logits.to_vec())
}

/// What may be drawn.
fn kept(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let kept = candidates(sampling, logits, largest);
    kept.iter().map(|c| c.1.0).collect()
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let greedy = Sampling::default();
    assert_eq!(
        next(&greedy, &[], &[0.0, 3.0, f32::NEG_INFINITY, 3.0]),
        Some(1)
    );
}

#[test]
fn logits_that_are_no_numbers_give_no_token() {
    for sampling in [Sampling::default(), warm()] {
        for broken in [
            &[][..],
            &[f32::NAN],
            &[1.0, f32::NAN, 2.0],
            &[1.0, f32::INFINITY],
            &[f32::NEG_INFINITY, f32::NEG_INFINITY],
        ] {
            assert_eq!(next(&sampling, &[], broken), None, "{broken:?}");
        }
    }
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let draw = |seed| {
        let mut sampler = Sampler::new(Sampling { seed, ..warm() }, &[]);
        let draws = (0..200).map(|_| sampler.next(&mut [1.0, 2.0, 3.0, 4.0]).unwrap());
        draws.collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [1.0, 2.0, 3.0, 0.0];
    let mut sampler = Sampler::new(warm(), &[]);
    let mut times = [0u32; 4];
    for _ in 0..20_000 {
        times[sampler.next(&mut logits.clone()).unwrap() as usize] += 1;
    }
    for (times, probability) in times.iter().zip(softmax(&logits)) {
        assert!((f64::from(*times) / 20_000.0 - probability).abs() < 0.02);
    }
}

#[test]
fn penalties_follow_their_formulas() {
    let sampling = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        penalty_window: 4,
        ..Sampling::default()
    };
    let mut logits = [4.0, -1.0, 3.0, 3.0];
    // Token 2 lies before the window; token 9 is not in the vocabulary.
    penalties::apply(&sampling, &[2, 0, 1, 0, 9], &mut logits);
    assert_eq!(logits, [4.0 / 2.0 - 0.5 - 0.5, -2.0 - 0.5 - 0.25, 3.0, 3.0]);
    penalties::apply(
        &Sampling {
            penalty_window: 0,
            ..sampling
        },
        &[2],
        &mut logits,
    );
    assert_eq!(logits[2], 3.0 / 2.0 - 0.5 - 0.25);
}

#[test]
fn penalties_count_what_was_chosen() {
    let sampling = Sampling {
        presence_penalty: 1.5,
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(sampling, &[0]);
    let chosen: Vec<_> = (0..3)
        .map(|_| sampler.next(&mut [4.0, 3.0, 2.8, 0.0]))
        .collect();
    assert_eq!(chosen, [Some(1), Some(2), Some(0)]);
}

#[test]
fn ranges_are_checked_by_name() {
    let name = |sampling: Sampling| sampling.check().unwrap_err().name;
    let default = Sampling::default;
    assert_eq!(default().check(), Ok(()));
    for bad in [-0.1, 101.0, f32::NAN] {
        assert_eq!(
            name(Sampling {
                temperature: bad,
                ..default()
            }),
            "temperature"
        );
    }
    for bad in [0.0, 1.1, f32::NAN] {
        assert_eq!(
            name(Sampling {
                top_p: bad,
                ..default()
            }),
            "top_p"
        );
    }
    assert_eq!(
        name(Sampling {
            min_p: 1.5,
            ..default()
        }),
        "min_p"
    );
    assert_eq!(
        name(Sampling {
            repetition_penalty: 0.0,
            ..default()
        }),
        "repetition_penalty"
    );
    assert_eq!(
        name(Sampling {
            presence_penalty: f32::INFINITY,
            ..default()
        }),
        "presence_penalty"
    );
    assert_eq!(
        name(Sampling {
            frequency_penalty: -11.0,
            ..default()
        }),
        "frequency_penalty"
    );
}

proptest! {
    #[test]
    fn top_p_keeps_the_fewest_likeliest(
        logits in prop::collection::vec(-5f32..5.0, 1..60),
        top_p in 0.01f32..0.99,
    ) {
        let kept = kept(&Sampling { top_p, ..warm() }, &logits);
        let probabilities = softmax(&logits);
        let together = |tokens: &[u32]| tokens.iter().map(|t| probabilities[*t as usize]).sum::<f64>();
        let wanted = f64::from(top_p);
        prop_assert!(together(&kept) >= wanted - 1e-9);
        prop_assert!(together(&kept[..kept.len() - 1]) < wanted + 1e-9);
        let least = kept.iter().map(|t| logits[*t as usize]).fold(f32::MAX, f32::min);
        let left_out = (0..logits.len()).filter(|t| !kept.contains(&(*t as u32)));
        prop_assert!(left_out.into_iter().all(|t| logits[t] <= least));
    }

    #[test]
    fn top_k_keeps_the_k_likeliest(
        logits in prop::collection::vec(-5f32..5.0, 1..60),
        top_k in 1usize..80,
    ) {
        let mut kept = kept(&Sampling { top_k, ..warm() }, &logits);
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        order.truncate(top_k);
        kept.sort_unstable();
        order.sort_unstable();
        prop_assert_eq!(kept, order);
    }

    #[test]
    fn min_p_keeps_what_is_probable_enough(
        logits in prop::collection::vec(-5f32..5.0, 1..60),
        min_p in 0.01f32..1.0,
    ) {
        let kept = kept(&Sampling { min_p, ..warm() }, &logits);
        let probabilities = softmax(&logits);
        let largest = probabilities.iter().copied().fold(0.0, f64::max);
        for (token, probability) in (0..).zip(&probabilities) {
            let ratio = probability / largest;
            // At the border itself rounding decides.
            if (ratio - f64::from(min_p)).abs() > 1e-6 {
                prop_assert_eq!(kept.contains(&token), ratio > f64::from(min_p));
            }
        }
    }

    /// A token always comes, and one of the vocabulary's, whatever the logits and the parameters in their ranges.
    #[test]
    fn there_is_always_a_token(
        logits in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 1..40),
        prompt in prop::collection::vec(0u32..50, 0..20),
        (temperature, top_k, top_p) in (0f32..100.0, 0usize..50, 0.001f32..=1.0),
        (min_p, repetition_penalty, penalty) in (0f32..=1.0, 0.001f32..10.0, -10f32..10.0),
        seed: u64,
    ) {
        let sampling = Sampling {
            temperature, top_k, top_p, min_p, repetition_penalty, seed,
            presence_penalty: penalty, frequency_penalty: penalty, penalty_window: 0,
        };
        prop_assert_eq!(sampling.check(), Ok(()));
        let token = next(&sampling, &prompt, &logits);
        prop_assert!(token.is_some_and(|t| (t as usize) < logits.len()));
    }
}
