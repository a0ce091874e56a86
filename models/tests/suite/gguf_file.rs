//! GGUF files made on the spot, and ways to spoil them.

use std::fs;

use crate::model::*;
use half::f16;
use halo_models::{ImportError, ImportOptions, Package, import};
use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

/// A value of a metadata key.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(&'static str),
    /// Any type, and any bytes after it.
    Raw(u32, Vec<u8>),
}

/// A tensor as a file describes it.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Fastest first.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
    /// Where it says that its bytes are, if that is not where they are.
    pub(crate) offset: Option<u64>,
}

/// A GGUF file in memory, to be changed and written.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) version: u32,
    pub(crate) keys: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Entry>,
    /// How many tensors and keys it says there are, if that is not how many there are.
    pub(crate) counts: Option<[u64; 2]>,
}

const ALIGNMENT: usize = 32;

impl GgufFile {
    /// A model as llama.cpp's converter writes it.
    pub(crate) fn of(model: &Model) -> Self {
        let config = &model.config;
        let number = |key: &str| config[key].as_u64().unwrap();
        let (architecture, pairs) = match config["model_type"].as_str().unwrap() {
            "qwen2" => ("qwen2", false),
            "qwen3" => ("qwen3", false),
            _ => ("llama", true),
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let mut keys = vec![(
            "general.architecture".to_owned(),
            Meta::String(architecture),
        )];
        for (name, from) in [
            ("block_count", "num_hidden_layers"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("context_length", "max_position_embeddings"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
        ] {
            keys.push((key(name), Meta::U32(number(from) as u32)));
        }
        for (name, from) in [
            ("attention.key_length", "head_dim"),
            ("attention.value_length", "head_dim"),
            ("attention.sliding_window", "sliding_window"),
        ] {
            if config["use_sliding_window"] != false && config.get(from).is_some() {
                keys.push((key(name), Meta::U32(number(from) as u32)));
            }
        }
        for (name, from) in [
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
            ("rope.freq_base", "rope_theta"),
        ] {
            if let Some(value) = config[from].as_f64() {
                keys.push((key(name), Meta::F32(value as f32)));
            }
        }
        let ends = match &config["eos_token_id"] {
            Value::Array(ends) => ends.clone(),
            end => vec![end.clone()],
        };
        let ends = ["eos", "eot"].into_iter().zip(&ends);
        for (kind, token) in ends.chain([("bos", &config["bos_token_id"])]) {
            if let Some(token) = token.as_u64() {
                let token = Meta::U32(token as u32);
                keys.push((format!("tokenizer.ggml.{kind}_token_id"), token));
            }
        }
        let tensors = model.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            let heads = match name {
                _ if !pairs => None,
                name if name.contains("q_proj") => Some("num_attention_heads"),
                name if name.contains("k_proj") => Some("num_key_value_heads"),
                _ => None,
            };
            Entry {
                name: own_name(name),
                dimensions: shape.iter().rev().map(|length| *length as u64).collect(),
                kind: match dtype {
                    Dtype::F32 => 0,
                    Dtype::F16 => 1,
                    Dtype::BF16 => 30,
                    other => panic!("{other:?}"),
                },
                bytes: match heads {
                    None => bytes.clone(),
                    Some(heads) => paired(bytes, shape[0], number(heads) as usize),
                },
                offset: None,
            }
        });
        Self {
            version: 3,
            keys,
            tensors: tensors.collect(),
            counts: None,
        }
    }

    /// With a key set or added.
    pub(crate) fn key(mut self, key: &str, value: Meta) -> Self {
        self = self.without_key(key);
        self.keys.push((key.into(), value));
        self
    }

    pub(crate) fn without_key(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    pub(crate) fn tensor(mut self, name: &str, change: impl FnOnce(&mut Entry)) -> Self {
        let entry = self.tensors.iter_mut().find(|entry| entry.name == name);
        change(entry.unwrap());
        self
    }

    /// With a tensor in f32 added.
    pub(crate) fn with(mut self, name: &str, dimensions: &[u64], values: &[f32]) -> Self {
        self.tensors.push(Entry {
            name: name.into(),
            dimensions: dimensions.into(),
            kind: 0,
            bytes: f32_bytes(values),
            offset: None,
        });
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        let counts = [self.tensors.len(), self.keys.len()].map(|count| count as u64);
        out.extend(self.counts.unwrap_or(counts).map(u64::to_le_bytes).concat());
        for (key, value) in &self.keys {
            out.extend(text(key));
            let (kind, bytes) = match value {
                Meta::U32(value) => (4, value.to_le_bytes().to_vec()),
                Meta::F32(value) => (6, value.to_le_bytes().to_vec()),
                Meta::Bool(value) => (7, vec![u8::from(*value)]),
                Meta::String(value) => (8, text(value)),
                Meta::Raw(kind, bytes) => (*kind, bytes.clone()),
            };
            out.extend(u32::to_le_bytes(kind));
            out.extend(bytes);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            out.extend(tensor.dimensions.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            let offset = tensor.offset.unwrap_or(data.len() as u64);
            out.extend(offset.to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        [out, data].concat()
    }
}

/// A string of a file: its length, then its bytes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Blocks of 32 weights that are `(code - zero) * scale`, in which no weight is the largest that the codes could say.
pub(crate) fn quantised(tensor: &mut Entry, kind: u32, bytes: usize) {
    let blocks = tensor.dimensions.iter().product::<u64>() as usize / 32;
    tensor.kind = kind;
    tensor.bytes = (0..blocks)
        .flat_map(|block| {
            let scale = f16::from_f32(0.001 + block as f32 / 65536.0);
            let codes = (2..bytes).map(move |i| 0x30 + ((i * 7 + block) % 32) as u8);
            scale.to_le_bytes().into_iter().chain(codes)
        })
        .collect();
}

/// Imports a file, with the tokenizer of the model that is made on the spot.
pub(crate) fn import_bytes(
    bytes: &[u8],
    options: &ImportOptions,
) -> (TempDir, Result<Package, ImportError>) {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("model.gguf"), bytes).unwrap();
    let tokenizer = Model::new().tokenizer.to_string();
    fs::write(source.join("tokenizer.json"), tokenizer).unwrap();
    let options = &ImportOptions {
        tokenizer: Some(source.join("tokenizer.json")),
        ..options.clone()
    };
    let package = dir.path().join("package");
    let result = import(&source.join("model.gguf"), &package, options, &mut |_| ());
    (dir, result)
}

fn own_name(name: &str) -> String {
    let mut name = name.to_owned();
    for (theirs, own) in [
        ("model.layers.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ] {
        name = name.replace(theirs, own);
    }
    name
}

/// Rows as the converter puts them: of each head, row i of the first half, then row i of the second, for every i.
fn paired(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (head, row) = (rows / heads, bytes.len() / rows);
    (0..heads)
        .flat_map(|h| (0..head / 2).flat_map(move |i| [h * head + i, h * head + head / 2 + i]))
        .flat_map(|source| &bytes[source * row..(source + 1) * row])
        .copied()
        .collect()
}
