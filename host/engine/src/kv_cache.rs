use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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
    id: u32,
    capacity: usize,
    length: usize,
    /// Tokens there is room for as yet.
    room: usize,
    frequencies: Vec<f64>,
    /// Cosine and sine by position, then by pair of a head's elements: one table for all layers.
    rotary: Arc<Vec<[f32; 2]>>,
    pub(crate) layers: Vec<LayerCache>,
}

/// One layer's part of it.
#[derive(Debug, Default)]
pub(crate) struct LayerCache {
    /// The KV heads.
    pub(crate) heads: Vec<HeadCache>,
    /// Where the tokens end that it has heard of, and positions before that of which it holds nothing, ascending.
    end: usize,
    pub(crate) holes: Vec<usize>,
}

impl LayerCache {
    /// Rows are about to be stored. What lies between them and the end becomes holes, and holes among them are filled.
    pub(crate) fn store(&mut self, rows: Range<usize>) {
        self.holes.retain(|hole| !rows.contains(hole));
        self.holes.extend(self.end..rows.start);
        self.end = self.end.max(rows.end);
    }
}

impl KvCache {
    /// An empty cache for a model of this shape.
    #[must_use]
    pub fn new(shape: &Shape, capacity: usize) -> Self {
        Self::of_heads(shape, &vec![shape.kv_heads; shape.layers], capacity)
    }

    /// An empty cache for so many KV heads of each layer.
    #[must_use]
    pub fn of_heads(shape: &Shape, heads: &[usize], capacity: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let head = |_| HeadCache::new(shape.head_width);
        let layer = |count: &usize| LayerCache {
            heads: (0..*count).map(head).collect(),
            ..LayerCache::default()
        };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            capacity,
            length: 0,
            room: 0,
            frequencies: rope::frequencies(shape),
            rotary: Arc::default(),
            layers: heads.iter().map(layer).collect(),
        }
    }

    /// Bytes that a cache of this many tokens takes.
    pub fn bytes(shape: &Shape, tokens: usize) -> u64 {
        Self::bytes_of_heads(shape, shape.layers * shape.kv_heads, tokens)
    }

    /// Bytes that this many tokens take in so many KV heads, of all layers together.
    pub fn bytes_of_heads(shape: &Shape, heads: usize, tokens: usize) -> u64 {
        [HeadCache::bytes(shape.head_width), heads, tokens]
            .iter()
            .fold(1u64, |a, &b| a.saturating_mul(b as u64))
    }

    /// Tells it from this process's other caches.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Tokens it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens whose keys and values are in it.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens that a cache takes memory for when it holds so many.
    #[must_use]
    pub fn room_for(tokens: usize, capacity: usize) -> usize {
        tokens.next_power_of_two().max(FIRST).min(capacity)
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
        for layer in &mut self.layers {
            layer.end = layer.end.min(length);
            layer.holes.retain(|hole| *hole < length);
        }
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
            for (to, from) in to.heads.iter_mut().zip(&from.heads) {
                to.copy_prefix(from, tokens);
            }
            to.end = tokens.min(from.end);
            to.holes
                .extend(from.holes.iter().filter(|hole| **hole < tokens));
        }
        self.length = tokens;
        Ok(())
    }

    fn is_like(&self, other: &Self) -> bool {
        let heads = |c: &Self| c.layers.iter().map(|l| l.heads.len()).collect::<Vec<_>>();
        heads(self) == heads(other) && self.frequencies == other.frequencies
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
        let room = Self::room_for(tokens, self.capacity);
        for head in self.layers.iter_mut().flat_map(|l| &mut l.heads) {
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

    /// Whether a layer holds nothing of some position before its last.
    pub fn has_holes(&self, layer: usize) -> bool {
        self.layers.get(layer).is_some_and(|l| !l.holes.is_empty())
    }

    pub(crate) fn rotary(&self) -> Arc<Vec<[f32; 2]>> {
        Arc::clone(&self.rotary)
    }
}
