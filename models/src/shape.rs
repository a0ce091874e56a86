//! The dimensions of a model.

use serde::{Deserialize, Serialize};

use crate::rope::RopeScaling;

/// The dimensions and constants of a LLaMA-family model.
///
/// A shape that came from [`Package::open`](crate::Package::open) has been validated: nothing is zero, `heads` is a
/// multiple of `kv_heads`, and every dimension is small enough that products of two of them fit in 64 bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Transformer layers.
    pub layers: usize,
    /// Length of the hidden state.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each is shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Length of one head's query, key and value.
    pub head_width: usize,
    /// Feed-forward neurons of one layer.
    pub feed_forward: usize,
    /// Tokens the model knows: rows of the embedding and of the output head.
    pub vocabulary: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// Base of the rotary position embedding.
    pub rope_theta: f64,
    /// How the frequencies of the rotary position embedding are changed, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Positions that one attends to at most, itself among them; if there is nothing here, all before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Queries, keys and values have a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub qkv_bias: bool,
    /// Attention's output has a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub output_bias: bool,
    /// Each head's query and key are RMS-normalised before they are rotated.
    #[serde(default, skip_serializing_if = "is_false")]
    pub qk_norm: bool,
    /// Added to the mean square in RMS normalisation.
    pub norm_epsilon: f32,
    /// The output head is the embedding.
    pub tied_head: bool,
    /// Token put before every document, if the model has one.
    pub bos: Option<u32>,
    /// Tokens that end a generation.
    pub eos: Vec<u32>,
}

/// A dimension that no model can have, or that this build refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, but must be {rule}")]
pub struct ShapeError {
    /// Which field of [`Shape`].
    pub field: &'static str,
    /// Its value.
    pub found: String,
    /// What it must be.
    pub rule: String,
}

impl Shape {
    const MAX_EOS: usize = 64;
    pub(crate) const MAX_CONTEXT: usize = 1 << 24;

    /// Checks that the shape is one a model can have.
    ///
    /// # Errors
    ///
    /// The first field that is zero, too large, or at odds with another.
    pub fn validate(&self) -> Result<(), ShapeError> {
        let bounded = [
            ("layers", self.layers, 1 << 10),
            ("width", self.width, 1 << 16),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_width", self.head_width, 1 << 12),
            ("feed_forward", self.feed_forward, 1 << 20),
            ("vocabulary", self.vocabulary, 1 << 20),
            ("context", self.context, Self::MAX_CONTEXT),
        ];
        for (field, value, limit) in bounded {
            check(field, value, (1..=limit).contains(&value), || {
                format!("between 1 and {limit}")
            })?;
        }
        check(
            "kv_heads",
            self.kv_heads,
            self.heads.is_multiple_of(self.kv_heads),
            || format!("a divisor of heads, which is {}", self.heads),
        )?;
        check(
            "head_width",
            self.head_width,
            self.head_width.is_multiple_of(16),
            || "a multiple of 16, as ONNX Runtime's attention has it".into(),
        )?;
        check(
            "rope_theta",
            self.rope_theta,
            self.rope_theta.is_finite() && self.rope_theta > 1.0,
            || "a finite number above 1".into(),
        )?;
        if let Some(scaling) = &self.rope_scaling {
            scaling.validate(self.head_width / 2)?;
        }
        if let Some(window) = self.sliding_window {
            let limit = Self::MAX_CONTEXT;
            check(
                "sliding_window",
                window,
                (1..=limit).contains(&window),
                || format!("between 1 and {limit}"),
            )?;
        }
        check(
            "norm_epsilon",
            self.norm_epsilon,
            self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0,
            || "between 0 and 1, both excluded".into(),
        )?;
        check(
            "eos",
            format!("{} tokens", self.eos.len()),
            self.eos.len() <= Self::MAX_EOS,
            || format!("at most {} tokens", Self::MAX_EOS),
        )?;
        for (field, token) in (self.bos.map(|token| ("bos", token)).into_iter())
            .chain(self.eos.iter().map(|&token| ("eos", token)))
        {
            check(field, token, (token as usize) < self.vocabulary, || {
                format!("below the vocabulary, which is {}", self.vocabulary)
            })?;
        }
        Ok(())
    }

    /// Query heads that share one key and value head, times their width: the columns of the output projection that
    /// belong to one KV group.
    #[must_use]
    pub fn kv_group_width(&self) -> usize {
        self.heads / self.kv_heads * self.head_width
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

pub(crate) fn check(
    field: &'static str,
    found: impl ToString,
    holds: bool,
    rule: impl FnOnce() -> String,
) -> Result<(), ShapeError> {
    if holds {
        return Ok(());
    }
    Err(ShapeError {
        field,
        found: found.to_string(),
        rule: rule(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Shape {
        Shape {
            layers: 6,
            width: 256,
            heads: 8,
            kv_heads: 4,
            head_width: 32,
            feed_forward: 768,
            vocabulary: 2048,
            context: 512,
            rope_theta: 10000.0,
            rope_scaling: None,
            sliding_window: None,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            norm_epsilon: 1e-5,
            tied_head: true,
            bos: Some(0),
            eos: vec![1],
        }
    }

    fn refused(change: impl FnOnce(&mut Shape)) -> &'static str {
        let mut shape = tiny();
        change(&mut shape);
        shape.validate().unwrap_err().field
    }

    #[test]
    fn accepts_the_default_model() {
        assert_eq!(tiny().validate(), Ok(()));
        assert_eq!(tiny().kv_group_width(), 64);
    }

    #[test]
    fn what_not_every_model_has_is_written_only_where_it_is() {
        let plain = serde_json::to_value(tiny()).unwrap();
        let optional = [
            "rope_scaling",
            "sliding_window",
            "qkv_bias",
            "output_bias",
            "qk_norm",
        ];
        for key in optional {
            assert!(plain.get(key).is_none(), "{key}");
        }
        let full = Shape {
            sliding_window: Some(128),
            qkv_bias: true,
            output_bias: true,
            qk_norm: true,
            ..tiny()
        };
        assert_eq!(full.validate(), Ok(()));
        let written = serde_json::to_value(&full).unwrap();
        assert_eq!(serde_json::from_value::<Shape>(written).unwrap(), full);
        let scaled = Shape {
            rope_scaling: Some(RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            }),
            ..tiny()
        };
        assert_eq!(scaled.validate(), Ok(()));
        let written = serde_json::to_value(&scaled).unwrap();
        assert_eq!(
            written["rope_scaling"],
            serde_json::json!({
                "type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_context": 8192,
            })
        );
        assert_eq!(serde_json::from_value::<Shape>(written).unwrap(), scaled);
        assert_eq!(serde_json::from_value::<Shape>(plain).unwrap(), tiny());
    }

    #[test]
    fn names_the_field_it_refuses() {
        assert_eq!(refused(|s| s.layers = 0), "layers");
        assert_eq!(refused(|s| s.layers = 1025), "layers");
        assert_eq!(refused(|s| s.width = 1 << 60), "width");
        assert_eq!(refused(|s| s.heads = 0), "heads");
        assert_eq!(refused(|s| s.kv_heads = 0), "kv_heads");
        assert_eq!(refused(|s| s.kv_heads = 3), "kv_heads");
        assert_eq!(refused(|s| s.head_width = 31), "head_width");
        assert_eq!(refused(|s| s.head_width = 40), "head_width");
        assert_eq!(refused(|s| s.sliding_window = Some(0)), "sliding_window");
        assert_eq!(refused(|s| s.feed_forward = usize::MAX), "feed_forward");
        assert_eq!(refused(|s| s.vocabulary = 0), "vocabulary");
        assert_eq!(refused(|s| s.context = 0), "context");
        assert_eq!(refused(|s| s.rope_theta = f64::NAN), "rope_theta");
        let linear = |factor| Some(RopeScaling::Linear { factor });
        for factor in [0.0, -2.0, 0.5, f64::NAN, f64::INFINITY] {
            let field = refused(|s| s.rope_scaling = linear(factor));
            assert_eq!(field, "rope_scaling.factor", "{factor}");
        }
        let factors = |factors: Vec<f32>| {
            refused(|s| s.rope_scaling = Some(RopeScaling::Factors { factors }))
        };
        assert_eq!(factors(vec![1.0; 15]), "rope_scaling.factors");
        for factor in [0.5, f32::NAN, f32::INFINITY] {
            assert_eq!(factors(vec![factor; 16]), "rope_scaling.factor", "{factor}");
        }
        let llama3 = |low_freq_factor, high_freq_factor, original_context| {
            refused(|s| {
                s.rope_scaling = Some(RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor,
                    high_freq_factor,
                    original_context,
                });
            })
        };
        for low in [0.0, -1.0, 5e-324, f64::NAN, f64::INFINITY] {
            let field = llama3(low, 4.0, 8192);
            assert_eq!(field, "rope_scaling.low_freq_factor", "{low}");
        }
        for high in [0.0, 0.5, 1.0, f64::NAN, f64::INFINITY] {
            let field = llama3(1.0, high, 8192);
            assert_eq!(field, "rope_scaling.high_freq_factor", "{high}");
        }
        for context in [0, Shape::MAX_CONTEXT + 1] {
            let field = llama3(1.0, 4.0, context);
            assert_eq!(field, "rope_scaling.original_context");
        }
        assert_eq!(refused(|s| s.norm_epsilon = f32::NAN), "norm_epsilon");
        assert_eq!(refused(|s| s.norm_epsilon = 0.0), "norm_epsilon");
        assert_eq!(refused(|s| s.bos = Some(2048)), "bos");
        assert_eq!(refused(|s| s.eos = vec![1, 2048]), "eos");
        assert_eq!(refused(|s| s.eos = vec![1; 65]), "eos");
    }
}
