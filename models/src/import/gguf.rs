//! A model in a GGUF file, as llama.cpp's converter writes it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::names;
use super::source::{RowOrder, Source, SourceTensor, rows_and_columns};
use crate::build::Chat;
use crate::chat::ChatTokens;
use crate::error::ImportError;
use crate::gguf::{Element, Encoding, Gguf, GgufError, Tensor};
use crate::layout::{KEY_BIAS, QUERY_BIAS};
use crate::rope::RopeScaling;
use crate::shape::Shape;
use crate::tensors::TensorError;
use crate::tokenizer::{Tokenizer, Vocabulary};

/// Architectures, by `general.architecture`, and how their converter leaves the rows of queries and keys. llama.cpp turns
/// neighbours in models of the first, among which Mistral's are, so the converter has moved the rows.
const ARCHITECTURES: [(&str, Rows); 3] = [
    ("llama", Rows::Paired),
    ("qwen2", Rows::Plain),
    ("qwen3", Rows::Plain),
];

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
const TOKENS: &str = "tokenizer.ggml.tokens";
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// How the rows of queries and keys lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Plain,
    /// As [`RowOrder::Pairs`].
    Paired,
}

/// A model in a GGUF file.
#[derive(Debug)]
pub(super) struct GgufModel {
    file: Gguf,
    shape: Shape,
    rows: Rows,
}

impl GgufModel {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let file = Gguf::open(path)?;
        let architecture: &str = file.need("general.architecture")?;
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
        let Some((architecture, rows)) = known else {
            let what = format!("architecture `{}`", architecture.escape_debug());
            return Err(unsupported(&file, what));
        };
        let shape = shape(&file, architecture)?;
        Ok(Self {
            file,
            shape,
            rows: *rows,
        })
    }
}

impl Source for GgufModel {
    fn description(&self) -> String {
        "a GGUF file".into()
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn tokenizer(&self) -> Result<(PathBuf, Vec<u8>), ImportError> {
        let json = vocabulary(&self.file)?.tokenizer_json();
        let json = json.map_err(|source| self.file.vocabulary_error(source))?;
        Ok((self.file.path().into(), json))
    }

    fn chat(&self, tokenizer: &Tokenizer, shape: &mut Shape) -> Result<Option<Chat>, ImportError> {
        let vocabulary = vocabulary(&self.file)?;
        shape.bos = vocabulary.first_token();
        let template: Option<&str> = self.file.get("tokenizer.chat_template")?;
        let piece = |token: Option<u32>| token.and_then(|token| tokenizer.piece(token));
        Ok(template.map(|template| Chat {
            template: template.into(),
            tokens: ChatTokens {
                bos: piece(vocabulary.bos).unwrap_or_default(),
                eos: piece(vocabulary.eos).unwrap_or_default(),
            },
        }))
    }

    fn check_tensors(&self, known: &[(Option<usize>, &str)]) -> Result<(), ImportError> {
        let names = known.iter().map(|(layer, name)| names::gguf(*layer, name));
        let known = names.chain([ROPE_FACTORS.into()]).collect::<HashSet<_>>();
        let left_out = |tensor: &&String| !known.contains(*tensor);
        match self.file.tensors().keys().filter(left_out).min() {
            None => Ok(()),
            Some(tensor) => {
                let what = format!("a tensor `{}`", tensor.escape_debug());
                Err(unsupported(&self.file, what))
            }
        }
    }

    fn tensor(
        &self,
        layer: Option<usize>,
        name: &str,
        shape: &[usize],
    ) -> Result<SourceTensor<'_>, TensorError> {
        let turned = ["attention.query", "attention.key", QUERY_BIAS, KEY_BIAS];
        let order = match self.rows {
            Rows::Paired if turned.contains(&name) => RowOrder::Pairs {
                head: self.shape.head_width,
            },
            _ => RowOrder::Plain,
        };
        tensor(&self.file, names::gguf(layer, name), shape, order)
    }
}

/// A tensor of one shape and of a type that is read.
fn tensor<'a>(
    file: &'a Gguf,
    name: String,
    shape: &[usize],
    order: RowOrder,
) -> Result<SourceTensor<'a>, TensorError> {
    let Some(found) = file.tensors().get(&name) else {
        return Err(missing(file, &name));
    };
    let path = file.path();
    let (rows, columns) = rows_and_columns(shape);
    let wrong_type = |found: String| {
        // Of a vector every element is a row, so blocks do not fit.
        let mut fitting = Encoding::ALL.to_vec();
        fitting.retain(|encoding| columns.is_multiple_of(encoding.block()));
        let names = fitting.iter().map(|encoding| format!("{encoding:?}"));
        TensorError::Dtype {
            path: path.into(),
            tensor: name.clone(),
            expected: names.collect::<Vec<_>>().join(", "),
            found,
        }
    };
    let encoding = match found.element {
        Element::Known(encoding) if columns.is_multiple_of(encoding.block()) => encoding,
        Element::Known(encoding) => return Err(wrong_type(format!("{encoding:?}"))),
        Element::Other(kind) => return Err(wrong_type(kind.into())),
    };
    if found.shape != shape {
        return Err(TensorError::Shape {
            path: path.into(),
            tensor: name,
            expected: shape.into(),
            found: found.shape.clone(),
        });
    }
    Ok(SourceTensor {
        path,
        name,
        encoding,
        map: file.map(),
        range: found.range.clone(),
        rows,
        columns,
        order,
    })
}

/// The dimensions of the model in a file, validated; `architecture` is what its keys begin with.
fn shape(file: &Gguf, architecture: &str) -> Result<Shape, ImportError> {
    let key = |name: &str| format!("{architecture}.{name}");
    if let Some(parts @ 2..) = file.get::<usize>("split.count")? {
        let reason = format!("is {parts}: join the parts with `llama-gguf-split --merge` first");
        return Err(file.key_error("split.count", reason).into());
    }
    if let Some(experts @ 1..) = file.get::<usize>(&key("expert_count"))? {
        return Err(unsupported(file, format!("{experts} experts")));
    }
    let width = file.need(&key("embedding_length"))?;
    let heads = file.need(&key("attention.head_count"))?;
    let context = file.need(&key("context_length"))?;
    // A window as long as the context hides nothing.
    let sliding_window = file
        .get(&key("attention.sliding_window"))?
        .filter(|window| (1..context).contains(window));
    if sliding_window.is_some() && file.has_key(&key("attention.sliding_window_pattern")) {
        let what = "a sliding window in only some layers".into();
        return Err(unsupported(file, what));
    }
    let head_width = match file.get(&key("attention.key_length"))? {
        Some(head_width) => head_width,
        None => width / usize::max(heads, 1),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        let length: Option<usize> = file.get(&key(name))?;
        if let Some(length) = length.filter(|length| *length != head_width) {
            let reason = format!("is {length}, but a head's width is {head_width}");
            return Err(file.key_error(&key(name), reason).into());
        }
    }
    let embedding: Option<&Tensor> = file.tensors().get(EMBEDDING);
    let embedding = embedding.ok_or_else(|| missing(file, EMBEDDING))?;
    let vocabulary = embedding.shape[0];
    if let Some(tokens) = file.array::<&str>(TOKENS)?
        && tokens.len() != vocabulary
    {
        let reason = format!(
            "has {} tokens, but `{EMBEDDING}` has {vocabulary} rows",
            tokens.len()
        );
        return Err(file.key_error(TOKENS, reason).into());
    }
    let has = |tensor| file.tensors().contains_key(tensor);
    let mut shape = Shape {
        layers: file.need(&key("block_count"))?,
        width,
        heads,
        kv_heads: file.get(&key("attention.head_count_kv"))?.unwrap_or(heads),
        head_width,
        feed_forward: file.need(&key("feed_forward_length"))?,
        vocabulary,
        context,
        rope_theta: file.get(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_scaling: None,
        sliding_window,
        qkv_bias: has("blk.0.attn_q.bias"),
        output_bias: has("blk.0.attn_output.bias"),
        qk_norm: has("blk.0.attn_q_norm.weight"),
        norm_epsilon: file.need::<f64>(&key("attention.layer_norm_rms_epsilon"))? as f32,
        tied_head: !has(HEAD),
        bos: file.get("tokenizer.ggml.bos_token_id")?,
        eos: ends(file)?,
    };
    let invalid = |source| ImportError::Shape {
        path: file.path().into(),
        source,
    };
    shape.validate().map_err(invalid)?;
    // Asked for only now, because as many factors are expected as a head has pairs.
    shape.rope_scaling = rope_scaling(file, architecture, head_width / 2)?;
    shape.validate().map_err(invalid)?;
    Ok(shape)
}

/// What a file says of its tokenizer.
fn vocabulary(file: &Gguf) -> Result<Vocabulary<'_>, GgufError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    Ok(Vocabulary {
        model: file.get(&key("model"))?.unwrap_or_default(),
        pre: file.get(&key("pre"))?,
        tokens: file.array(TOKENS)?.unwrap_or_default(),
        scores: file.array(&key("scores"))?.unwrap_or_default(),
        types: file.array(&key("token_type"))?.unwrap_or_default(),
        merges: file.array(&key("merges"))?.unwrap_or_default(),
        bos: file.get(&key("bos_token_id"))?,
        eos: file.get(&key("eos_token_id"))?,
        unknown: file.get(&key("unknown_token_id"))?,
        add_bos: file.get(&key("add_bos_token"))?,
        add_space_prefix: file.get(&key("add_space_prefix"))?,
    })
}

/// The tokens that end a text, a turn or a message.
fn ends(file: &Gguf) -> Result<Vec<u32>, ImportError> {
    let mut tokens = Vec::new();
    for kind in ["eos", "eot", "eom"] {
        let token = file.get(&format!("tokenizer.ggml.{kind}_token_id"))?;
        tokens.extend(token.filter(|token| !tokens.contains(token)));
    }
    Ok(tokens)
}

/// How the frequencies of so many pairs are scaled: all by one factor, each by its own, or both.
fn rope_scaling(
    file: &Gguf,
    architecture: &str,
    pairs: usize,
) -> Result<Option<RopeScaling>, ImportError> {
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let factor = match file.get::<&str>(&key("scaling.type"))? {
        Some("none") => None,
        None | Some("linear") => match file.get::<f64>(&key("scaling.factor"))? {
            // What older files call it.
            None => file.get(&key("scale_linear"))?,
            factor => factor,
        },
        Some(other) => {
            let what = format!("RoPE scaling of type `{}`", other.escape_debug());
            return Err(unsupported(file, what));
        }
    };
    // To llama.cpp zero means that there is no scaling.
    let factor = factor.filter(|factor| ![0.0, 1.0].contains(factor));
    if !file.tensors().contains_key(ROPE_FACTORS) {
        return Ok(factor.map(|factor| RopeScaling::Linear { factor }));
    }
    let factors =
        tensor(file, ROPE_FACTORS.into(), &[pairs], RowOrder::Plain)?.decode(0..pairs, 1)?;
    let scaled = |each: f32| each * factor.unwrap_or(1.0) as f32;
    let factors = factors.into_iter().map(scaled).collect();
    Ok(Some(RopeScaling::Factors { factors }))
}

fn missing(file: &Gguf, tensor: &str) -> TensorError {
    TensorError::Missing {
        path: file.path().into(),
        tensor: tensor.into(),
    }
}

fn unsupported(file: &Gguf, what: String) -> ImportError {
    ImportError::Unsupported {
        path: file.path().into(),
        what,
    }
}
