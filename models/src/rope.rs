//! How the frequencies of rotary positions are changed for a context longer than a model was first trained for.

use serde::{Deserialize, Serialize};

use crate::shape::{ShapeError, check};

/// A change to the frequencies of the rotary position embedding.
///
/// [`Package::open`](crate::Package::open) has validated it: every factor is finite, and none makes a frequency higher.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
}

impl RopeScaling {
    /// Checks that the scaling can be computed.
    pub(crate) fn validate(&self) -> Result<(), ShapeError> {
        let (Self::Linear { factor } | Self::Llama3 { factor, .. }) = *self;
        check(
            "rope_scaling.factor",
            factor,
            factor.is_finite() && factor >= 1.0,
            || "a finite number, at least 1".into(),
        )?;
        let Self::Llama3 {
            low_freq_factor: low,
            high_freq_factor: high,
            original_context,
            ..
        } = *self
        else {
            return Ok(());
        };
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
