//! A small model folder in Hugging Face's layout, made on the spot, and ways to spoil it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use halo_models::{ImportError, ImportOptions, Package, WeightFormat, import};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const LAYERS: usize = 2;
pub(crate) const WIDTH: usize = 64;
pub(crate) const HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const HEAD_WIDTH: usize = 16;
pub(crate) const FEED_FORWARD: usize = 96;
pub(crate) const VOCABULARY: usize = 40;

/// The committed test data.
pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// The committed default package.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny")
}

/// Element type, shape and bytes.
pub(crate) type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// A model in memory, to be changed and written.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) tokenizer: Value,
}

impl Model {
    /// A sound model whose weights are exact in f16 and bf16.
    pub(crate) fn new() -> Self {
        let (queries, keys) = (HEADS * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH);
        let mut shapes = vec![
            ("model.embed_tokens".to_owned(), vec![VOCABULARY, WIDTH]),
            ("model.norm".to_owned(), vec![WIDTH]),
        ];
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("input_layernorm", vec![WIDTH]),
                ("post_attention_layernorm", vec![WIDTH]),
                ("self_attn.q_proj", vec![queries, WIDTH]),
                ("self_attn.k_proj", vec![keys, WIDTH]),
                ("self_attn.v_proj", vec![keys, WIDTH]),
                ("self_attn.o_proj", vec![WIDTH, queries]),
                ("mlp.gate_proj", vec![FEED_FORWARD, WIDTH]),
                ("mlp.up_proj", vec![FEED_FORWARD, WIDTH]),
                ("mlp.down_proj", vec![WIDTH, FEED_FORWARD]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}"), shape));
            }
        }
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // From -127/128 to 127/128: seven bits, so every format has them exactly.
            ((state >> 40) % 255) as f32 / 128.0 - 127.0 / 128.0
        };
        let tensors = shapes
            .into_iter()
            .map(|(name, shape)| {
                let values = (0..shape.iter().product())
                    .map(|_| next())
                    .collect::<Vec<f32>>();
                (
                    format!("{name}.weight"),
                    (Dtype::F32, shape, f32_bytes(&values)),
                )
            })
            .collect();
        let vocabulary = (0..VOCABULARY).map(|i| (format!("t{i}"), json!(i)));
        Self {
            config: json!({
                "model_type": "llama",
                "hidden_act": "silu",
                "hidden_size": WIDTH,
                "intermediate_size": FEED_FORWARD,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS,
                "num_key_value_heads": KV_HEADS,
                "rms_norm_eps": 1e-5,
                "rope_theta": 500000.0,
                "max_position_embeddings": 64,
                "vocab_size": VOCABULARY,
                "tie_word_embeddings": true,
                "bos_token_id": 0,
                "eos_token_id": [1, 2],
            }),
            tensors,
            tokenizer: json!({
                "version": "1.0",
                "added_tokens": [],
                "model": {"type": "WordLevel", "vocab": Value::Object(vocabulary.collect()), "unk_token": "t0"},
            }),
        }
    }

    pub(crate) fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub(crate) fn without_config(mut self, key: &str) -> Self {
        self.config.as_object_mut().unwrap().remove(key);
        self
    }

    pub(crate) fn tensor(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        change(self.tensors.get_mut(name).unwrap());
        self
    }

    /// The f32 values of a tensor of an unconverted model.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        let bytes = &self.tensors[name].2;
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }

    /// All tensors in another type.
    pub(crate) fn converted(mut self, dtype: Dtype) -> Self {
        for name in self.tensors.keys().cloned().collect::<Vec<_>>() {
            let values = self.values(&name);
            let bytes = match dtype {
                Dtype::F16 => values
                    .iter()
                    .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                    .collect(),
                Dtype::BF16 => values
                    .iter()
                    .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                    .collect(),
                _ => f32_bytes(&values),
            };
            let tensor = self.tensors.get_mut(&name).unwrap();
            (tensor.0, tensor.2) = (dtype, bytes);
        }
        self
    }

    pub(crate) fn weights(&self) -> Vec<u8> {
        serialize(self.tensors.iter())
    }

    fn write_sides(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        fs::write(dir.join("tokenizer.json"), self.tokenizer.to_string()).unwrap();
    }

    pub(crate) fn write(&self, dir: &Path) {
        self.write_sides(dir);
        fs::write(dir.join("model.safetensors"), self.weights()).unwrap();
    }

    /// Writes the weights in two parts with an index.
    pub(crate) fn write_parts(&self, dir: &Path) {
        self.write_sides(dir);
        let mut map = serde_json::Map::new();
        for part in 0..2 {
            let file = format!("model-0000{}-of-00002.safetensors", part + 1);
            let tensors = self
                .tensors
                .iter()
                .enumerate()
                .filter(|(i, _)| i % 2 == part)
                .map(|(_, tensor)| tensor);
            map.extend(tensors.clone().map(|(name, _)| (name.clone(), json!(file))));
            fs::write(dir.join(file), serialize(tensors)).unwrap();
        }
        let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
        fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    /// Writes and imports it.
    pub(crate) fn import(
        &self,
        options: &ImportOptions,
    ) -> (TempDir, Result<Package, ImportError>) {
        let dir = TempDir::new().unwrap();
        self.write(&dir.path().join("source"));
        let result = import_in(dir.path(), options);
        (dir, result)
    }

    /// The message with which importing it fails, without the name of the temporary folder. Nothing is left behind.
    pub(crate) fn refusal(&self, options: &ImportOptions) -> String {
        let (dir, result) = self.import(options);
        refusal_in(dir.path(), result)
    }
}

/// Imports `source` in `dir` to `package` beside it.
pub(crate) fn import_in(dir: &Path, options: &ImportOptions) -> Result<Package, ImportError> {
    import(
        &dir.join("source"),
        &dir.join("package"),
        options,
        &mut |_| (),
    )
}

/// The message of a failed import in `dir`, of which only the source may be left.
pub(crate) fn refusal_in(dir: &Path, result: Result<Package, ImportError>) -> String {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["source"],
        "a failed import left something behind"
    );
    result
        .unwrap_err()
        .to_string()
        .replace(&format!("{}/source/", dir.display()), "")
}

pub(crate) fn f32_options() -> ImportOptions {
    ImportOptions {
        weights: WeightFormat::F32,
        ..ImportOptions::default()
    }
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(crate) fn serialize<'a>(tensors: impl Iterator<Item = (&'a String, &'a Tensor)>) -> Vec<u8> {
    let views = tensors.map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}
