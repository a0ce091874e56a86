use std::sync::Arc;

use halo_models::Shape;

use crate::EngineError;
use crate::attention::HeadCache;
use crate::rope;

/// Tokens that a cache first makes room for; from there the room doubles.
const FIRST: usize = 64;

/// The keys and values of one generation: every layer's, for up to `capacity` tokens, written in place by the attention.
///
/// Takes `2 * layers * kv_heads * head_width * 4` bytes per token where the head's width is a multiple of 16, for at most twice the
/// tokens that it holds.
#[derive(Debug)]
pub struct KvCache {
    capacity: usize,
    length: usize,
    /// Tokens there is room for as yet.
    room: usize,
    frequencies: Vec<f64>,
    /// Cosine and sine by position, then by pair of a head's elements: one table for all layers.
    rotary: Arc<Vec<[f32; 2]>>,
    /// Each layer's KV heads.
    pub(crate) layers: Vec<Vec<HeadCache>>,
}

impl KvCache {
    /// An empty cache for a model of this shape.
    #[must_use]
    pub fn new(shape: &Shape, capacity: usize) -> Self {
        let head = |_| HeadCache::new(shape.head_width);
        let layer = |_| (0..shape.kv_heads).map(head).collect();
        Self {
            capacity,
            length: 0,
            room: 0,
            frequencies: rope::frequencies(shape),
            rotary: Arc::default(),
            layers: (0..shape.layers).map(layer).collect(),
        }
    }

    /// Bytes that a cache of this many tokens takes.
    pub fn bytes(shape: &Shape, tokens: usize) -> u64 {
        let head = HeadCache::bytes(shape.head_width);
        [shape.layers, shape.kv_heads, head, tokens]
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
        for (to, from) in self.heads_mut().zip(other.layers.iter().flatten()) {
            to.copy_prefix(from, tokens);
        }
        self.length = tokens;
        Ok(())
    }

    fn is_like(&self, other: &Self) -> bool {
        let dimensions = |c: &Self| (c.layers.len(), c.layers.first().map(Vec::len));
        dimensions(self) == dimensions(other) && self.frequencies == other.frequencies
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
        let room = tokens.next_power_of_two().max(FIRST).min(self.capacity);
        for head in self.heads_mut() {
            head.grow(room)
                .map_err(|_| EngineError::CacheMemory { tokens: room })?;
        }
        let turn = |angle: f64| [angle.cos() as f32, angle.sin() as f32];
        let positions = self.room..room;
        let frequencies = &self.frequencies;
        let new = positions.flat_map(|p| frequencies.iter().map(move |f| turn(p as f64 * f)));
        Arc::make_mut(&mut self.rotary).extend(new);
        self.room = room;
        Ok(())
    }

    pub(crate) fn rotary(&self) -> Arc<Vec<[f32; 2]>> {
        Arc::clone(&self.rotary)
    }

    fn heads_mut(&mut self) -> impl Iterator<Item = &mut HeadCache> {
        self.layers.iter_mut().flatten()
    }
}
