//! How the frequencies of rotary positions are changed for a context longer than a model was first trained for.

use serde::{Deserialize, Serialize};

use crate::shape::{ShapeError, check};

/// A change to the frequencies of the rotary position embedding.
///
/// [`Package::open`](crate::Package::open) has validated it: every factor is finite, and none makes a frequency higher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// Every frequency is divided by the factor, which is to divide every position by it.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// As in Llama 3.1 and later: low frequencies are divided by the factor, high ones stay, and those between are
    /// interpolated.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Frequencies that turn fewer times than this within `original_context` are low.
        low_freq_factor: f64,
        /// Frequencies that turn more often than this within `original_context` are high. Above `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions that the model was trained for before.
        original_context: usize,
    },
    /// Each frequency is divided by a factor of its own.
    Factors {
        /// One for each pair of a head's elements, in the order of [`Shape::head_width`](crate::Shape::head_width), at
        /// least 1.
        factors: Vec<f32>,
    },
}

impl RopeScaling {
    /// Checks that the scaling can be computed for heads of `pairs` pairs of elements.
    pub(crate) fn validate(&self, pairs: usize) -> Result<(), ShapeError> {
        let check_factor = |factor: f64| {
            check(
                "rope_scaling.factor",
                factor,
                factor.is_finite() && factor >= 1.0,
                || "a finite number, at least 1".into(),
            )
        };
        match self {
            Self::Linear { factor } => check_factor(*factor),
            Self::Factors { factors } => {
                check(
                    "rope_scaling.factors",
                    format!("{} numbers", factors.len()),
                    factors.len() == pairs,
                    || format!("{pairs} numbers, one for each pair of a head's elements"),
                )?;
                (factors.iter()).try_for_each(|factor| check_factor((*factor).into()))
            }
            &Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context,
            } => {
                check_factor(factor)?;
                check(
                    "rope_scaling.low_freq_factor",
                    low,
                    low.is_normal() && low > 0.0,
                    || "a finite number above 0".into(),
                )?;
                check(
                    "rope_scaling.high_freq_factor",
                    high,
                    high.is_finite() && high > low,
                    || format!("a finite number above low_freq_factor, which is {low}"),
                )?;
                check(
                    "rope_scaling.original_context",
                    original_context,
                    (1..=crate::Shape::MAX_CONTEXT).contains(&original_context),
                    || format!("between 1 and {}", crate::Shape::MAX_CONTEXT),
                )
            }
        }
    }
}
