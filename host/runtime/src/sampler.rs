//! Choosing the next token from the logits.

mod logprobs;
mod penalties;
mod sampling;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) use logprobs::logprobs;
pub use logprobs::{Alternative, Logprobs};
pub use sampling::{OutOfRange, Sampling};

/// Chooses the tokens of one generation, one after another.
///
/// Penalties change the logits first; the temperature then makes them probabilities, of which top-k, top-p and min-p, in this
/// order, keep the likeliest; one of those is drawn. What is drawn depends on the seed, the logits and the tokens so far, and
/// on no other generation.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: StdRng,
    /// Prompt and answer so far.
    tokens: Vec<u32>,
}

impl Sampler {
    /// A sampler at the beginning of its seed's sequence, for what comes after `prompt`.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        let random = StdRng::seed_from_u64(sampling.seed);
        Self {
            sampling,
            random,
            tokens: prompt.to_vec(),
        }
    }

    /// The next token; penalties are taken off `logits` in place. `None` if a logit is NaN or infinitely large, or all are
    /// infinitely small, which only a broken model gives.
    pub fn next(&mut self, logits: &mut [f32]) -> Option<u32> {
        // Not a number is not less than anything either.
        if !logits.iter().all(|l| *l < f32::INFINITY) {
            return None;
        }
        penalties::apply(&self.sampling, &self.tokens, logits);
        // Of equals the first, whatever the machine.
        let likeliest =
            (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a })?;
        let token = if logits[likeliest] == f32::NEG_INFINITY {
            return None;
        } else if self.sampling.temperature <= 0.0 {
            likeliest as u32
        } else {
            let candidates = candidates(&self.sampling, logits, logits[likeliest]);
            draw(&candidates, self.random.random())
        };
        self.tokens.push(token);
        Some(token)
    }
}

/// A token with its probability relative to the likeliest one's. Floats that are not negative are ordered as their bits are.
type Candidate = (u64, Reverse<u32>);

fn weight(candidate: &Candidate) -> f64 {
    f64::from_bits(candidate.0)
}

/// The tokens that may be drawn, of which there is always one.
fn candidates(sampling: &Sampling, logits: &[f32], largest: f32) -> Vec<Candidate> {
    let temperature = f64::from(sampling.temperature);
    let weight_of = |logit: f32| (f64::from(logit - largest) / temperature).exp();
    let mut all: Vec<Candidate> = (0..)
        .zip(logits)
        .map(|(token, &logit)| (weight_of(logit).to_bits(), Reverse(token)))
        .collect();
    if (1..all.len()).contains(&sampling.top_k) {
        all.select_nth_unstable_by(sampling.top_k - 1, |a, b| b.cmp(a));
        all.truncate(sampling.top_k);
    } else if sampling.top_p >= 1.0 && sampling.min_p <= 0.0 {
        return all;
    }
    let wanted = f64::from(sampling.top_p) * all.iter().map(weight).sum::<f64>();
    let min_p = f64::from(sampling.min_p);
    // Few of a large vocabulary are kept, as a rule, so it is not sorted as a whole.
    let mut heap = BinaryHeap::from(all);
    let mut kept: Vec<Candidate> = Vec::new();
    let mut together = 0.0;
    while let Some(next) = heap.pop() {
        if !kept.is_empty() && (together >= wanted || weight(&next) < min_p) {
            break;
        }
        together += weight(&next);
        kept.push(next);
    }
    kept
}

/// The candidate at a point between 0 and 1 when they are laid side by side by weight.
fn draw(candidates: &[Candidate], point: f64) -> u32 {
    let mut point = point * candidates.iter().map(weight).sum::<f64>();
    let drawn = candidates.iter().find(|candidate| {
        point -= weight(candidate);
        point < 0.0
    });
    // Rounding may leave the point just beyond the last.
    let drawn = drawn.or_else(|| candidates.iter().rfind(|c| weight(c) > 0.0));
    drawn.map_or(0, |candidate| candidate.1.0)
}

#[cfg(test)]
mod tests;
