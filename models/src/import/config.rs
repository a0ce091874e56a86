//! `config.json` of a Hugging Face model folder.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::tokenizer_config::OneOrMany;
use crate::error::ImportError;
use crate::rope::RopeScaling;
use crate::shape::Shape;

/// The architectures that HALO runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    Llama,
    Mistral,
    /// With biases of queries, keys and values.
    Qwen2,
    /// With norms of every head's query and key.
    Qwen3,
}

/// The values of `layer_types`.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Keys that ask for something HALO would leave out unless they are null, false, zero or empty.
const ABSENT: [&str; 11] = [
    "mlp_bias",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "use_qk_norm",
    "qk_layernorm",
    "clip_qkv",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "no_rope_layers",
    "quantization_config",
];

/// Keys that ask for something HALO would leave out unless they are null or 1.
const ONE: [&str; 5] = [
    "partial_rotary_factor",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "logit_scale",
];

/// The keys that matter here. Those that a model may leave out have the value they then mean.
#[derive(Debug, Deserialize)]
struct Config {
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
    /// Where it is left out, which is not where it is null, it means this.
    #[serde(default = "usual_window")]
    sliding_window: Option<usize>,
    #[serde(default)]
    use_sliding_window: bool,
    /// Layers before this one have no window.
    #[serde(default = "usual_window_layers")]
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
}

fn usual_window() -> Option<usize> {
    Some(4096)
}

fn usual_window_layers() -> usize {
    28
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
    partial_rotary_factor: Option<f64>,
    /// Whatever else there is would change them further.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Reads a configuration and gives the shape it describes, validated.
pub(super) fn read(path: &Path) -> Result<Shape, ImportError> {
    let bytes = fs::read(path).map_err(super::missing_or_io(path))?;
    let invalid = |reason: String| ImportError::Config {
        path: path.into(),
        reason,
    };
    let unsupported = |what: String| ImportError::Unsupported {
        path: path.into(),
        what,
    };
    let keys: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    let architecture = match keys.get("model_type").and_then(Value::as_str) {
        Some("llama") => Architecture::Llama,
        Some("mistral") => Architecture::Mistral,
        Some("qwen2") => Architecture::Qwen2,
        Some("qwen3") => Architecture::Qwen3,
        Some(other) => {
            return Err(unsupported(format!(
                "model_type `{}`",
                other.escape_debug()
            )));
        }
        None => return Err(invalid("`model_type` is missing".into())),
    };
    check_absent(&keys).map_err(unsupported)?;
    let config: Config =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    config.check_supported().map_err(unsupported)?;
    let sliding_window = config.window(architecture).map_err(unsupported)?;
    let heads = config.num_attention_heads;
    let kv_heads = match (config.num_key_value_heads, architecture) {
        (Some(kv_heads), _) => kv_heads,
        (None, Architecture::Llama) => heads,
        (None, _) => return Err(invalid("`num_key_value_heads` is missing".into())),
    };
    let head_width = match (config.head_dim, architecture) {
        (Some(width), _) => width,
        (None, Architecture::Qwen3) => return Err(invalid("`head_dim` is missing".into())),
        (None, _) => config
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
        kv_heads,
        head_width,
        feed_forward: config.intermediate_size,
        vocabulary: config.vocab_size,
        context: config.max_position_embeddings,
        rope_theta: rope_theta.or(config.rope_theta).unwrap_or(10_000.0),
        rope_scaling,
        sliding_window,
        qkv_bias: config.attention_bias || architecture == Architecture::Qwen2,
        output_bias: config.attention_bias,
        qk_norm: architecture == Architecture::Qwen3,
        norm_epsilon: config.rms_norm_eps,
        tied_head: config.tie_word_embeddings,
        bos: config.bos_token_id,
        eos: config
            .eos_token_id
            .map(OneOrMany::into_vec)
            .unwrap_or_default(),
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
        match &scalings[..] {
            [one, other] if one != other => {
                Err("rope_scaling and rope_parameters contradict each other".into())
            }
            _ => Ok(scalings.into_iter().next()),
        }
    }

    /// Checks that nothing is asked for that HALO would leave out. The error says what.
    fn check_supported(&self) -> Result<(), String> {
        let silu = ["silu", "swish"];
        if let Some(act) = self.hidden_act.as_deref().filter(|act| !silu.contains(act)) {
            return Err(format!("hidden_act `{}`", act.escape_debug()));
        }
        let known = [FULL, SLIDING];
        let mut kinds = self.layer_types.iter().flatten();
        if let Some(kind) = kinds.find(|kind| !known.contains(&kind.as_str())) {
            return Err(format!("layer_types `{}`", kind.escape_debug()));
        }
        for (key, rope) in self.ropes() {
            let known = ["default", "linear", "llama3"];
            if let Some(kind) = rope.kind().filter(|kind| !known.contains(kind)) {
                return Err(format!("{key} of type `{}`", kind.escape_debug()));
            }
            let partial = rope.partial_rotary_factor.filter(|factor| *factor != 1.0);
            let partial = partial.map(|_| "partial_rotary_factor");
            if let Some(other) = partial.or(rope.others.keys().next().map(String::as_str)) {
                return Err(format!("{} in {key}", other.escape_debug()));
            }
        }
        Ok(())
    }

    /// The window that every layer has, if there is one. The error says why not every layer has the same.
    fn window(&self, architecture: Architecture) -> Result<Option<usize>, String> {
        let used = match architecture {
            Architecture::Llama => false,
            Architecture::Mistral => true,
            Architecture::Qwen2 | Architecture::Qwen3 => self.use_sliding_window,
        };
        // A window as long as the context never hides anything.
        let hides = |window: &usize| used && *window < self.max_position_embeddings;
        let Some(window) = self.sliding_window.filter(hides) else {
            return Ok(None);
        };
        let layers = self.num_hidden_layers;
        let (key, windowed) = match (&self.layer_types, architecture) {
            (Some(types), _) => {
                let sliding = types.iter().filter(|kind| *kind == SLIDING);
                ("layer_types", sliding.count())
            }
            (None, Architecture::Qwen2 | Architecture::Qwen3) => {
                let windowed = layers.saturating_sub(self.max_window_layers);
                ("max_window_layers", windowed)
            }
            (None, _) => ("num_hidden_layers", layers),
        };
        match windowed {
            0 => Ok(None),
            all if all == layers => Ok(Some(window)),
            some => Err(format!(
                "a sliding window in only {some} of {layers} layers ({key})"
            )),
        }
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

/// Checks that no key asks for what HALO would leave out. The error names the key.
fn check_absent(keys: &Map<String, Value>) -> Result<(), String> {
    let absent = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
    };
    let one = |value: &Value| value.is_null() || value.as_f64() == Some(1.0);
    let asks = |(key, value): &(&String, &Value)| {
        let key = key.as_str();
        ABSENT.contains(&key) && !absent(value) || ONE.contains(&key) && !one(value)
    };
    match keys.iter().find(asks) {
        None => Ok(()),
        Some((key, _)) if key == "quantization_config" => {
            Err("weights that are already quantised (quantization_config)".into())
        }
        Some((key, value)) => Err(format!("{key} {value}")),
    }
}
