use halo_models::Shape;
use ort::memory::Allocator;
use ort::value::Tensor;

use crate::EngineError;
use crate::attention::Attending;
use crate::error::Context;
use crate::rope;

/// Tokens that a cache first makes room for; from there the room doubles.
const FIRST: usize = 64;

/// The keys and values of one generation: every layer's, for up to `capacity` tokens, written in place by the attention.
///
/// Takes `2 * layers * kv_heads * head_width * 4` bytes per token, for at most twice the tokens that it holds.
#[derive(Debug)]
pub struct KvCache {
    capacity: usize,
    length: usize,
    /// Tokens there is room for as yet.
    room: usize,
    kv_heads: usize,
    head_width: usize,
    frequencies: Vec<f64>,
    pub(crate) layers: Vec<LayerCache>,
    /// Rotary embedding, `[room, head_width / 2]`; one table for all layers.
    pub(crate) cos: Tensor<f32>,
    pub(crate) sin: Tensor<f32>,
    /// What `GroupQueryAttention` wants to know of lengths: tokens in the cache after this pass, less one, and not less one.
    pub(crate) last_position: Tensor<i32>,
    pub(crate) total: Tensor<i32>,
    /// Row buffers and bindings of single-row passes, and of the last other row count.
    single: Option<Attending>,
    several: Option<Attending>,
}

/// One layer's, each `[1, kv_heads, room, head_width]`.
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
        let what = || "an empty KV cache".to_owned();
        let allocator = Allocator::default();
        let empty = || Tensor::<f32>::new(&allocator, [1, shape.kv_heads, 0, shape.head_width]);
        let layer = |_| {
            Ok(LayerCache {
                keys: empty()?,
                values: empty()?,
            })
        };
        let layers = (0..shape.layers).map(layer).collect::<ort::Result<_>>();
        let table = || Tensor::<f32>::new(&allocator, [0, shape.head_width / 2]).context(what);
        let scalar = || Tensor::<i32>::new(&allocator, [1usize]).context(what);
        Ok(Self {
            capacity,
            length: 0,
            room: 0,
            kv_heads: shape.kv_heads,
            head_width: shape.head_width,
            frequencies: rope::frequencies(shape),
            layers: layers.context(what)?,
            cos: table()?,
            sin: table()?,
            last_position: scalar()?,
            total: scalar()?,
            single: None,
            several: None,
        })
    }

    /// Bytes that a cache of this many tokens takes.
    pub fn bytes(shape: &Shape, tokens: usize) -> u64 {
        [2, 4, shape.layers, shape.kv_heads, shape.head_width, tokens]
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

    /// Tokens that it has taken memory for.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Counts the rows of a pass as held, after the last layer has attended.
    pub fn advance(&mut self, rows: usize) {
        self.length = (self.length + rows).min(self.room);
    }

    /// Forgets every token from position `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Takes over the first `tokens` of another generation's cache, in place of what is held.
    ///
    /// # Errors
    ///
    /// There are not so many, or no room for them, or the other is of another model.
    pub fn copy_prefix(&mut self, other: &Self, tokens: usize) -> Result<(), EngineError> {
        if tokens > other.length || !self.is_like(other) {
            return Err(EngineError::Mismatch {
                what: "tokens of a KV cache to copy",
                expected: tokens,
                got: other.length,
            });
        }
        self.truncate(0);
        self.reserve(tokens)?;
        for (to, from) in self.layers.iter_mut().zip(&other.layers) {
            copy(&mut to.keys, &from.keys, tokens, self.kv_heads);
            copy(&mut to.values, &from.values, tokens, self.kv_heads);
        }
        self.length = tokens;
        Ok(())
    }

    fn is_like(&self, other: &Self) -> bool {
        let dimensions = |c: &Self| (c.layers.len(), c.kv_heads, c.head_width);
        dimensions(self) == dimensions(other)
    }

    /// Makes room for this many tokens, keeping those that are there. A pass does so by itself.
    ///
    /// # Errors
    ///
    /// They are more than the capacity, or the memory cannot be had.
    pub fn reserve(&mut self, tokens: usize) -> Result<(), EngineError> {
        if tokens > self.capacity {
            return Err(EngineError::CacheFull {
                capacity: self.capacity,
                wanted: tokens,
            });
        }
        if tokens <= self.room {
            return Ok(());
        }
        // The bindings are of the tensors that are replaced.
        (self.single, self.several) = (None, None);
        let room = tokens.next_power_of_two().max(FIRST).min(self.capacity);
        let what = || format!("the memory of the KV cache for {room} tokens");
        let allocator = Allocator::default();
        let dimensions = [1, self.kv_heads, room, self.head_width];
        for layer in &mut self.layers {
            for tensor in [&mut layer.keys, &mut layer.values] {
                let mut larger = Tensor::<f32>::new(&allocator, dimensions).context(what)?;
                larger.extract_tensor_mut().1.fill(0.0);
                copy(&mut larger, tensor, self.room, self.kv_heads);
                *tensor = larger;
            }
        }
        let table = || Tensor::<f32>::new(&allocator, [room, self.head_width / 2]).context(what);
        let (mut cos, mut sin) = (table()?, table()?);
        let angles = (0..room)
            .flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f));
        let tables = cos
            .extract_tensor_mut()
            .1
            .iter_mut()
            .zip(sin.extract_tensor_mut().1);
        for ((cos, sin), angle) in tables.zip(angles) {
            (*cos, *sin) = (angle.cos() as f32, angle.sin() as f32);
        }
        (self.cos, self.sin, self.room) = (cos, sin, room);
        Ok(())
    }

    /// Where the buffers of passes with so many rows are kept.
    pub(crate) fn attending(&mut self, rows: usize) -> &mut Option<Attending> {
        match rows {
            1 => &mut self.single,
            _ => &mut self.several,
        }
    }
}

/// Copies the first `tokens` of every head from one layer's tensor to another's.
fn copy(to: &mut Tensor<f32>, from: &Tensor<f32>, tokens: usize, heads: usize) {
    let (to, from) = (to.extract_tensor_mut(), from.extract_tensor());
    let width = to.0[3] as usize;
    let (to_head, from_head) = (to.1.len() / heads, from.1.len() / heads);
    if tokens == 0 {
        return;
    }
    let heads = to.1.chunks_mut(to_head).zip(from.1.chunks(from_head));
    for (to, from) in heads {
        to[..tokens * width].copy_from_slice(&from[..tokens * width]);
    }
}
