//! Where a package keeps which matrix, and in what form: one description that importing writes by and reading checks
//! against.

use std::ops::Range;

use safetensors::Dtype;

use crate::manifest::{Quantisation, WeightFormat};
use crate::matrix::{Matrix, Values};
use crate::shape::Shape;
use crate::tensors::{TensorError, TensorFile};

pub(crate) const ATTENTION_NORM: &str = "attention.norm";
pub(crate) const FEED_FORWARD_NORM: &str = "feed_forward.norm";
pub(crate) const FINAL_NORM: &str = "final_norm";
pub(crate) const QUERY_BIAS: &str = "attention.query_bias";
pub(crate) const KEY_BIAS: &str = "attention.key_bias";
pub(crate) const VALUE_BIAS: &str = "attention.value_bias";
pub(crate) const OUTPUT_BIAS: &str = "attention.output_bias";
pub(crate) const QUERY_NORM: &str = "attention.query_norm";
pub(crate) const KEY_NORM: &str = "attention.key_norm";

/// A [`WeightFormat`] applied to a matrix: the block size is the one it really has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    F32,
    F16,
    Quantised { bits: u8, block: usize },
}

impl Storage {
    /// The storage of a matrix whose rows can be cut after every `unit` columns, and nowhere else.
    fn of(format: WeightFormat, unit: usize) -> Option<Self> {
        let (bits, block) = match format {
            WeightFormat::F32 => return Some(Self::F32),
            WeightFormat::F16 => return Some(Self::F16),
            WeightFormat::Q4 { block } => (4, block),
            WeightFormat::Q8 { block } => (8, block),
        };
        // The largest power of two that divides the unit.
        let block = block.min(1 << unit.trailing_zeros());
        (block >= WeightFormat::MIN_BLOCK).then_some(Self::Quantised { bits, block })
    }
}

/// A matrix of a package, or several of one shape in one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// The tensor's name, or what the names of data, scales and zero points begin with.
    pub(crate) name: &'static str,
    /// How many matrices, when it is a stack.
    pub(crate) stack: Option<usize>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) storage: Storage,
}

/// Name, type and shape of one tensor on disk.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
}

impl Part {
    /// A vector in f32.
    pub(crate) fn vector(name: &str, length: usize) -> Self {
        Self {
            name: name.into(),
            dtype: Dtype::F32,
            shape: vec![length],
        }
    }

    /// Its elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes that they take. Every type in a package has whole bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.elements() * self.dtype.bitsize() / 8
    }
}

impl Spec {
    /// The tensors that hold it: the values alone, or data, scales and zero points.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let part = |suffix: &str, dtype, tail: &[usize]| {
            let shape = self
                .stack
                .iter()
                .chain(&[self.rows])
                .chain(tail)
                .copied()
                .collect();
            let name = format!("{}{suffix}", self.name);
            Part { name, dtype, shape }
        };
        match self.storage {
            Storage::F32 => vec![part("", Dtype::F32, &[self.columns])],
            Storage::F16 => vec![part("", Dtype::F16, &[self.columns])],
            Storage::Quantised { bits, block } => {
                let blocks = self.columns / block;
                vec![
                    part(".data", Dtype::U8, &[blocks, block * usize::from(bits) / 8]),
                    part(".scales", Dtype::F32, &[blocks]),
                    part(".zero_points", Dtype::U8, &[blocks]),
                ]
            }
        }
    }

    /// Finds the tensors in a file and checks their types and shapes.
    pub(crate) fn find(&self, file: &TensorFile) -> Result<Stored, TensorError> {
        let ranges = self
            .parts()
            .iter()
            .map(|part| {
                Ok(file
                    .expect(&part.name, &[part.dtype], &part.shape)?
                    .range
                    .clone())
            })
            .collect::<Result<_, TensorError>>()?;
        Ok(Stored {
            spec: *self,
            ranges,
        })
    }
}

/// A [`Spec`] found in a file.
#[derive(Debug)]
pub(crate) struct Stored {
    spec: Spec,
    /// In the order of [`Spec::parts`].
    ranges: Vec<Range<usize>>,
}

impl Stored {
    /// The bytes of one matrix of the stack in each of its tensors.
    pub(crate) fn ranges(&self, index: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let count = self.spec.stack.unwrap_or(1);
        assert!(
            index < count,
            "matrix {index} of {count} in `{}`",
            self.spec.name
        );
        self.ranges.iter().map(move |range| {
            let length = range.len() / count;
            let start = range.start + index * length;
            start..start + length
        })
    }

    /// One matrix of the stack. `file` is the one it was found in.
    pub(crate) fn matrix<'a>(&self, file: &'a TensorFile, index: usize) -> Matrix<'a> {
        let mut parts = self.ranges(index).map(|range| &file.bytes()[range]);
        let mut part = || parts.next().unwrap_or_default();
        let values = match self.spec.storage {
            Storage::F32 => Values::F32(part()),
            Storage::F16 => Values::F16(part()),
            Storage::Quantised { bits, block } => Values::Quantised {
                bits,
                block,
                data: part(),
                scales: part(),
                zero_points: part(),
            },
        };
        Matrix {
            rows: self.spec.rows,
            columns: self.spec.columns,
            values,
        }
    }
}

/// Every matrix and vector of a package; those of a layer are the same in every layer.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Name and length of a layer's vectors, which are in f32: its norms, and what else its attention has.
    pub(crate) vectors: Vec<(&'static str, usize)>,
    pub(crate) embedding: Spec,
    /// None when it is tied to the embedding.
    pub(crate) head: Option<Spec>,
    pub(crate) query: Spec,
    pub(crate) key: Spec,
    pub(crate) value: Spec,
    pub(crate) output: Spec,
    pub(crate) gate: Spec,
    pub(crate) up: Spec,
    pub(crate) down: Spec,
}

impl Layout {
    /// The matrices of the embedding's file.
    pub(crate) fn outer(&self) -> impl Iterator<Item = &Spec> {
        [&self.embedding].into_iter().chain(&self.head)
    }

    /// The matrices of a layer's file.
    pub(crate) fn layer(&self) -> [&Spec; 7] {
        [
            &self.query,
            &self.key,
            &self.value,
            &self.output,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }

    /// The largest value in a tensor of zero points; none if the tensor is another.
    pub(crate) fn largest_zero_point(&self, tensor: &str) -> Option<u8> {
        let name = tensor.strip_suffix(".zero_points")?;
        let mut specs = self.outer().chain(self.layer());
        match specs.find(|spec| spec.name == name)?.storage {
            Storage::Quantised { bits, .. } => Some(u8::MAX >> (8 - bits)),
            Storage::F32 | Storage::F16 => None,
        }
    }

    /// The layout of a model whose shape has been validated.
    ///
    /// # Errors
    ///
    /// In words, when the feed-forward neurons cannot be divided into such groups or rows into blocks.
    pub(crate) fn new(
        shape: &Shape,
        group_size: usize,
        quantisation: Quantisation,
    ) -> Result<Self, String> {
        if group_size == 0 || !shape.feed_forward.is_multiple_of(group_size) {
            return Err(format!(
                "{} feed-forward neurons cannot be divided into groups of {group_size}",
                shape.feed_forward
            ));
        }
        if shape.tied_head && quantisation.head.is_some() {
            return Err(
                "the head is the embedding, so it cannot be stored in another format".into(),
            );
        }
        let head = quantisation.head.unwrap_or(quantisation.embedding);
        for format in [quantisation.weights, quantisation.embedding, head] {
            if !format.is_valid() {
                return Err(format!(
                    "{format}: the block size is not a power of two from 16 to 256"
                ));
            }
        }
        let spec = |name, format, stack, [rows, columns]: [usize; 2], unit| {
            let storage = Storage::of(format, unit).ok_or_else(|| {
                format!("`{name}` cannot be stored as {format}: {unit} columns are not a multiple of 16; choose f16 or f32")
            })?;
            Ok::<_, String>(Spec {
                name,
                stack,
                rows,
                columns,
                storage,
            })
        };
        let (weights, embedding) = (quantisation.weights, quantisation.embedding);
        let width = shape.width;
        let groups = Some(shape.feed_forward / group_size);
        let queries = shape.heads * shape.head_width;
        let keys = shape.kv_heads * shape.head_width;
        // Blocks of `output` and `down` must not straddle two groups, which different nodes may compute.
        let kv_group = shape.kv_group_width();
        let mut vectors = vec![(ATTENTION_NORM, width), (FEED_FORWARD_NORM, width)];
        if shape.qkv_bias {
            vectors.extend([(QUERY_BIAS, queries), (KEY_BIAS, keys), (VALUE_BIAS, keys)]);
        }
        if shape.output_bias {
            vectors.push((OUTPUT_BIAS, width));
        }
        if shape.qk_norm {
            vectors.extend([QUERY_NORM, KEY_NORM].map(|name| (name, shape.head_width)));
        }
        Ok(Self {
            vectors,
            embedding: spec(
                "embedding",
                embedding,
                None,
                [shape.vocabulary, width],
                width,
            )?,
            head: (!shape.tied_head)
                .then(|| spec("head", head, None, [shape.vocabulary, width], width))
                .transpose()?,
            query: spec("attention.query", weights, None, [queries, width], width)?,
            key: spec("attention.key", weights, None, [keys, width], width)?,
            value: spec("attention.value", weights, None, [keys, width], width)?,
            output: spec(
                "attention.output",
                weights,
                None,
                [width, queries],
                kv_group,
            )?,
            gate: spec(
                "feed_forward.gate",
                weights,
                groups,
                [group_size, width],
                width,
            )?,
            up: spec(
                "feed_forward.up",
                weights,
                groups,
                [group_size, width],
                width,
            )?,
            down: spec(
                "feed_forward.down",
                weights,
                groups,
                [width, group_size],
                group_size,
            )?,
        })
    }
}
