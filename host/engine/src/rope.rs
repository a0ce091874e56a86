//! The frequencies of the rotary position embedding.

use std::f64::consts::TAU;

use halo_models::{RopeScaling, Shape};

/// How far one position turns each pair of a head's elements, in radians: `head_width / 2` values, falling.
pub(crate) fn frequencies(shape: &Shape) -> Vec<f64> {
    let width = shape.head_width as f64;
    (0..shape.head_width / 2)
        .map(|pair| {
            let frequency = shape.rope_theta.powf(-2.0 * pair as f64 / width);
            match &shape.rope_scaling {
                None => frequency,
                Some(scaling) => scaled(frequency, pair, scaling),
            }
        })
        .collect()
}

fn scaled(frequency: f64, pair: usize, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Factors { ref factors } => frequency / f64::from(factors[pair]),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            let turns = original_context as f64 * frequency / TAU;
            // 0 where the frequency is divided by the factor, 1 where it stays.
            let share = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let share = share.clamp(0.0, 1.0);
            (1.0 - share) * frequency / factor + share * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rotary part of Llama-3.2-1B.
    fn shape(rope_scaling: Option<RopeScaling>) -> Shape {
        Shape {
            layers: 1,
            width: 64,
            heads: 1,
            kv_heads: 1,
            head_width: 64,
            feed_forward: 32,
            vocabulary: 32,
            context: 131_072,
            rope_theta: 500_000.0,
            rope_scaling,
            sliding_window: None,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            norm_epsilon: 1e-5,
            tied_head: true,
            bos: None,
            eos: Vec::new(),
        }
    }

    /// Pair and frequency.
    fn expect(rope_scaling: Option<RopeScaling>, expected: &[(usize, f64)]) {
        let found = frequencies(&shape(rope_scaling));
        assert_eq!(found.len(), 32);
        assert!(found.is_sorted_by(|a, b| a > b));
        for &(pair, expected) in expected {
            let error = (found[pair] / expected - 1.0).abs();
            assert!(error < 1e-12, "{pair}: {} for {expected}", found[pair]);
        }
    }

    // The expected values were computed in Python, after `_compute_llama3_parameters` and `_compute_linear_scaling_rope_parameters`
    // of Hugging Face's transformers.

    #[test]
    fn without_scaling() {
        expect(
            None,
            &[
                (0, 1.0),
                (1, 0.6636012376960885),
                (15, 0.0021311195369119653),
                (31, 3.0138581521391708e-6),
            ],
        );
    }

    #[test]
    fn linear() {
        let scaling = RopeScaling::Linear { factor: 4.0 };
        expect(
            Some(scaling),
            &[
                (0, 0.25),
                (1, 0.6636012376960885 / 4.0),
                (31, 3.0138581521391708e-6 / 4.0),
            ],
        );
    }

    #[test]
    fn a_factor_for_each() {
        let factors = (0..32).map(|pair| 1.0 + pair as f32).collect();
        expect(
            Some(RopeScaling::Factors { factors }),
            &[
                (0, 1.0),
                (1, 0.6636012376960885 / 2.0),
                (31, 3.0138581521391708e-6 / 32.0),
            ],
        );
    }

    #[test]
    fn llama3() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        expect(
            Some(scaling),
            &[
                (0, 1.0),
                (1, 0.6636012376960885),
                (13, 0.004839421345719893),
                // The last that stays, the three that are interpolated, the first that is divided.
                (14, 0.0032114459947525913),
                (15, 0.001290547928209264),
                (16, 0.00042955679655936815),
                (17, 9.70828780262767e-5),
                (18, 1.9461638184831125e-5),
                (19, 1.291476718704739e-5),
                (31, 9.418306725434909e-8),
            ],
        );
    }
}
