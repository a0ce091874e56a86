//! `config.json` of a Hugging Face model folder.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::ImportError;
use crate::rope::RopeScaling;
use crate::shape::Shape;

/// The keys that matter here. Those that a LLaMA model may leave out have the value they then mean.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    hidden_act: Option<String>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    sliding_window: Option<usize>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    quantization_config: Option<serde::de::IgnoredAny>,
}

/// How rotary positions are scaled; older files say `type`.
#[derive(Debug, Deserialize)]
struct Rope {
    rope_type: Option<String>,
    r#type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// Reads a configuration and gives the shape it describes, validated.
pub(super) fn read(path: &Path) -> Result<Shape, ImportError> {
    let bytes = fs::read(path).map_err(super::missing_or_io(path))?;
    let invalid = |reason: String| ImportError::Config {
        path: path.into(),
        reason,
    };
    /// What tells one architecture's configuration from another's, whose other keys may differ.
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let kind: Kind = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    match kind.model_type.as_deref() {
        Some("llama" | "mistral") => {}
        Some(other) => {
            return Err(unsupported(
                path,
                format!("model_type `{}`", other.escape_debug()),
            ));
        }
        None => return Err(invalid("`model_type` is missing".into())),
    }
    let config: Config =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    config
        .check_supported()
        .map_err(|what| unsupported(path, what))?;
    let heads = config.num_attention_heads;
    let head_width = match config.head_dim {
        Some(width) => width,
        None => config
            .hidden_size
            .checked_div(heads)
            .filter(|width| width * heads == config.hidden_size)
            .ok_or_else(|| {
                invalid(format!(
                    "hidden_size {} is not a multiple of num_attention_heads {heads}, and there is no head_dim",
                    config.hidden_size
                ))
            })?,
    };
    let rope_theta = config
        .rope_parameters
        .as_ref()
        .and_then(|rope| rope.rope_theta);
    let rope_scaling = config.rope_scaling().map_err(invalid)?;
    let shape = Shape {
        layers: config.num_hidden_layers,
        width: config.hidden_size,
        heads,
        kv_heads: config.num_key_value_heads.unwrap_or(heads),
        head_width,
        feed_forward: config.intermediate_size,
        vocabulary: config.vocab_size,
        context: config.max_position_embeddings,
        rope_theta: rope_theta.or(config.rope_theta).unwrap_or(10_000.0),
        rope_scaling,
        norm_epsilon: config.rms_norm_eps,
        tied_head: config.tie_word_embeddings,
        bos: config.bos_token_id,
        eos: match config.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(token)) => vec![token],
            Some(OneOrMany::Many(tokens)) => tokens,
        },
    };
    shape.validate().map_err(|source| ImportError::Shape {
        path: path.into(),
        source,
    })?;
    Ok(shape)
}

impl Config {
    /// The older place and the newer one where scaling may be described, by their keys.
    fn ropes(&self) -> impl Iterator<Item = (&'static str, &Rope)> {
        [
            ("rope_scaling", &self.rope_scaling),
            ("rope_parameters", &self.rope_parameters),
        ]
        .into_iter()
        .filter_map(|(key, rope)| Some((key, rope.as_ref()?)))
    }

    /// How rotary positions are scaled, if they are; its numbers are not validated. The error says what is missing.
    fn rope_scaling(&self) -> Result<Option<RopeScaling>, String> {
        let mut scalings = Vec::new();
        for (key, rope) in self.ropes() {
            if let Some(scaling) = rope.scaling(key)? {
                scalings.push(scaling);
            }
        }
        match scalings[..] {
            [one, other] if one != other => {
                Err("rope_scaling and rope_parameters contradict each other".into())
            }
            _ => Ok(scalings.first().copied()),
        }
    }

    /// Checks that nothing is asked for that HALO would leave out. The error says what.
    fn check_supported(&self) -> Result<(), String> {
        let refuse = |condition: bool, what: &str| {
            if condition {
                Err(what.to_owned())
            } else {
                Ok(())
            }
        };
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return Err(format!("hidden_act `{}`", act.escape_debug()));
        }
        for (key, rope) in self.ropes() {
            let known = ["default", "linear", "llama3"];
            if let Some(kind) = rope.kind().filter(|kind| !known.contains(kind)) {
                return Err(format!("{key} of type `{}`", kind.escape_debug()));
            }
        }
        // A window as long as the context never hides anything.
        let window = self
            .sliding_window
            .filter(|window| *window < self.max_position_embeddings);
        refuse(
            self.model_type.as_deref() == Some("mistral") && window.is_some(),
            "a sliding window shorter than max_position_embeddings",
        )?;
        refuse(self.attention_bias, "attention_bias")?;
        refuse(self.mlp_bias, "mlp_bias")?;
        refuse(
            self.quantization_config.is_some(),
            "weights that are already quantised (quantization_config)",
        )
    }
}

impl Rope {
    fn kind(&self) -> Option<&str> {
        self.rope_type.as_deref().or(self.r#type.as_deref())
    }

    fn scaling(&self, key: &str) -> Result<Option<RopeScaling>, String> {
        fn need<T>(value: Option<T>, key: &str, name: &str) -> Result<T, String> {
            value.ok_or_else(|| format!("`{name}` is missing in {key}"))
        }
        let factor = || need(self.factor, key, "factor");
        Ok(match self.kind() {
            Some("linear") => Some(RopeScaling::Linear { factor: factor()? }),
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: need(self.low_freq_factor, key, "low_freq_factor")?,
                high_freq_factor: need(self.high_freq_factor, key, "high_freq_factor")?,
                original_context: need(
                    self.original_max_position_embeddings,
                    key,
                    "original_max_position_embeddings",
                )?,
            }),
            _ => None,
        })
    }
}

fn unsupported(path: &Path, what: String) -> ImportError {
    ImportError::Unsupported {
        path: path.into(),
        what,
    }
}
