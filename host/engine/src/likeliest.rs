use std::cmp::Ordering;

/// What sampling needs of one row of logits: the likeliest tokens, and the sum that turns logits into probabilities. That of
/// a vocabulary follows from those of its slices, so the slices' logits need not be in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Likeliest {
    /// Tokens and their logits, the largest first; of equal ones the lower token first.
    pub tokens: Vec<(u32, f32)>,
    /// The logarithm of the sum of the exponentials of all logits: a token's log-probability is its logit less this.
    pub log_sum: f32,
}

impl Likeliest {
    /// The `count` likeliest of a slice of the vocabulary that begins with token `first`; all if there are fewer.
    pub fn of(logits: &[f32], first: u32, count: usize) -> Self {
        let mut tokens: Vec<_> = (first..).zip(logits.iter().copied()).collect();
        if count < tokens.len() {
            tokens.select_nth_unstable_by(count, order);
            tokens.truncate(count);
        }
        tokens.sort_unstable_by(order);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = log_sum(largest, logits.iter().copied());
        Self { tokens, log_sum }
    }

    /// The `count` likeliest of several slices together, of which each gave as many or all it has.
    pub fn combine(slices: &[Self], count: usize) -> Self {
        let mut tokens: Vec<_> = slices.iter().flat_map(|s| &s.tokens).copied().collect();
        tokens.sort_unstable_by(order);
        tokens.truncate(count);
        let sums = slices.iter().map(|slice| slice.log_sum);
        let largest = sums.clone().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = log_sum(largest, sums);
        Self { tokens, log_sum }
    }
}

fn order(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The logarithm of a sum of exponentials, the largest of which is known, so that none overflows.
fn log_sum(largest: f32, logits: impl Iterator<Item = f32>) -> f32 {
    let sum: f64 = logits.map(|logit| f64::from(logit - largest).exp()).sum();
    largest + sum.ln() as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn large_logits_do_not_overflow() {
        let found = Likeliest::of(&[1e4, 0.0, 1e4], 7, 2);
        assert_eq!(found.tokens, [(7, 1e4), (9, 1e4)]);
        assert_eq!(found.log_sum, 1e4 + 2f32.ln());
    }

    proptest! {
        #[test]
        fn slices_tell_what_the_whole_tells(
            logits in prop::collection::vec(-20f32..20.0, 1..200),
            slice in 1usize..50,
            count in 0usize..60,
        ) {
            let whole = Likeliest::of(&logits, 0, count);
            prop_assert_eq!(whole.tokens.len(), count.min(logits.len()));
            let parts: Vec<_> = (0..).step_by(slice).zip(logits.chunks(slice))
                .map(|(first, logits)| Likeliest::of(logits, first, count))
                .collect();
            let combined = Likeliest::combine(&parts, count);
            prop_assert_eq!(combined.tokens, whole.tokens);
            prop_assert!((combined.log_sum - whole.log_sum).abs() < 1e-4);
        }
    }
}
