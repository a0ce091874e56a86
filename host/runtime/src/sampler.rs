use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// How the next token is chosen from the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the likeliest token always (greedy); 1 samples from the model's own distribution.
    pub temperature: f32,
    /// Sample from this many likeliest tokens only; 0 means all.
    pub top_k: usize,
    /// Sample from the likeliest tokens that together have this probability; 1 means all.
    pub top_p: f32,
    /// Seed of the random numbers: the same seed, prompt and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// Chooses tokens, one after another.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: StdRng,
}

impl Sampler {
    /// A sampler at the beginning of its seed's sequence.
    pub fn new(sampling: Sampling) -> Self {
        let random = StdRng::seed_from_u64(sampling.seed);
        Self { sampling, random }
    }

    /// The next token. `None` if there is no logit that is a number, which only a broken model gives.
    pub fn next(&mut self, logits: &[f32]) -> Option<u32> {
        let likeliest = || {
            let finite = logits.iter().enumerate().filter(|(_, l)| l.is_finite());
            // Of equals the first, whatever the machine.
            finite.fold(None, |best: Option<(usize, f32)>, (i, &l)| {
                if best.is_none_or(|(_, b)| l > b) {
                    Some((i, l))
                } else {
                    best
                }
            })
        };
        let (token, largest) = likeliest()?;
        if self.sampling.temperature <= 0.0 {
            return Some(token as u32);
        }
        let mut candidates: Vec<(u32, f64)> = logits
            .iter()
            .enumerate()
            .filter(|(_, l)| l.is_finite())
            .map(|(i, &l)| {
                (
                    i as u32,
                    f64::from((l - largest) / self.sampling.temperature).exp(),
                )
            })
            .collect();
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.sampling.top_k > 0 {
            candidates.truncate(self.sampling.top_k);
        }
        let total: f64 = candidates.iter().map(|c| c.1).sum();
        let wanted = total * f64::from(self.sampling.top_p.clamp(0.0, 1.0));
        let mut before = 0.0;
        candidates.retain(|c| {
            let kept = before == 0.0 || before < wanted;
            before += c.1;
            kept
        });
        let total: f64 = candidates.iter().map(|c| c.1).sum();
        let mut point = self.random.random::<f64>() * total;
        for (token, weight) in &candidates {
            point -= weight;
            if point < 0.0 {
                return Some(*token);
            }
        }
        candidates.last().map(|c| c.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(Sampling::default());
        assert_eq!(sampler.next(&[0.0, 3.0, f32::NAN, 3.0]), Some(1));
        assert_eq!(sampler.next(&[f32::NAN]), None);
        assert_eq!(sampler.next(&[]), None);
    }

    #[test]
    fn a_seed_repeats_and_top_k_and_top_p_restrict() {
        let logits = [1.0, 2.0, 3.0, 4.0];
        let draw = |sampling: Sampling| {
            let mut sampler = Sampler::new(sampling);
            (0..200)
                .map(|_| sampler.next(&logits).unwrap())
                .collect::<Vec<_>>()
        };
        let warm = Sampling {
            temperature: 1.0,
            seed: 7,
            ..Sampling::default()
        };
        assert_eq!(draw(warm.clone()), draw(warm.clone()));
        assert!((0..4).all(|t| {
            draw(Sampling {
                temperature: 3.0,
                ..warm.clone()
            })
            .contains(&t)
        }));
        assert!(
            draw(Sampling {
                top_k: 2,
                ..warm.clone()
            })
            .iter()
            .all(|&t| t >= 2)
        );
        // The likeliest has probability 0.644, the two likeliest 0.881.
        assert!(
            draw(Sampling {
                top_p: 0.6,
                ..warm.clone()
            })
            .iter()
            .all(|&t| t == 3)
        );
        assert!(
            draw(Sampling { top_p: 0.8, ..warm })
                .iter()
                .all(|&t| t >= 2)
        );
    }
}
