use halo_models::Shape;
use ort::memory::Allocator;
use ort::value::Tensor;

use crate::EngineError;
use crate::attention::Pass;
use crate::error::Context;
use crate::rope;

/// The keys and values of one generation: every layer's, for up to `capacity` tokens, written in place by the attention.
///
/// Takes `2 * layers * kv_heads * head_width * 4` bytes per token of capacity, all of it from the start.
#[derive(Debug)]
pub struct KvCache {
    capacity: usize,
    length: usize,
    pub(crate) layers: Vec<LayerCache>,
    /// Rotary embedding, `[capacity, head_width / 2]`; one table for all layers.
    pub(crate) cos: Tensor<f32>,
    pub(crate) sin: Tensor<f32>,
    /// What `GroupQueryAttention` wants to know of lengths: tokens in the cache after this pass, less one, and not less one.
    pub(crate) last_position: Tensor<i32>,
    pub(crate) total: Tensor<i32>,
    /// Row buffers and bindings of single-row passes, and of the last other row count.
    pub(crate) single: Option<Pass>,
    pub(crate) several: Option<Pass>,
}

/// One layer's, each `[1, kv_heads, capacity, head_width]`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor<f32>,
    pub(crate) values: Tensor<f32>,
}

impl KvCache {
    /// An empty cache for a model of this shape.
    ///
    /// # Errors
    ///
    /// The memory cannot be had.
    pub fn new(shape: &Shape, capacity: usize) -> Result<Self, EngineError> {
        let what = || {
            format!(
                "the KV cache ({capacity} tokens, {} bytes)",
                Self::bytes(shape, capacity)
            )
        };
        let allocator = Allocator::default();
        let layers = (0..shape.layers)
            .map(|_| {
                let dimensions = [1, shape.kv_heads, capacity, shape.head_width];
                let zeroed = || {
                    let mut tensor = Tensor::<f32>::new(&allocator, dimensions)?;
                    tensor.extract_tensor_mut().1.fill(0.0);
                    Ok::<_, ort::Error>(tensor)
                };
                Ok(LayerCache {
                    keys: zeroed()?,
                    values: zeroed()?,
                })
            })
            .collect::<Result<_, ort::Error>>()
            .context(what)?;
        let half = shape.head_width / 2;
        let table = || Tensor::<f32>::new(&allocator, [capacity, half]).context(what);
        let (mut cos, mut sin) = (table()?, table()?);
        let frequencies = rope::frequencies(shape);
        let angles =
            (0..capacity).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let tables = cos
            .extract_tensor_mut()
            .1
            .iter_mut()
            .zip(sin.extract_tensor_mut().1);
        for ((cos, sin), angle) in tables.zip(angles) {
            (*cos, *sin) = (angle.cos() as f32, angle.sin() as f32);
        }
        let scalar = || Tensor::<i32>::new(&allocator, [1usize]).context(what);
        Ok(Self {
            capacity,
            length: 0,
            layers,
            cos,
            sin,
            last_position: scalar()?,
            total: scalar()?,
            single: None,
            several: None,
        })
    }

    /// Bytes that a cache of this capacity takes.
    pub fn bytes(shape: &Shape, capacity: usize) -> u64 {
        [
            2,
            4,
            shape.layers,
            shape.kv_heads,
            shape.head_width,
            capacity,
        ]
        .iter()
        .fold(1u64, |a, &b| a.saturating_mul(b as u64))
    }

    /// Tokens it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens whose keys and values are in it.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Counts the rows of a pass as held, after the last layer has attended.
    pub fn advance(&mut self, rows: usize) {
        self.length = (self.length + rows).min(self.capacity);
    }

    /// Forgets every token from position `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}
