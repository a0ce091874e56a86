use std::collections::TryReserveError;
use std::ops::Range;

/// Tokens of a tile, the unit in which keys are stored and scores computed: a multiple of every processor's vector length.
pub(crate) const TILE: usize = 16;

/// As many values as a tile has tokens.
pub(super) type Lanes = [f32; TILE];

/// The keys and values of one KV head in one layer, laid out as attention reads them.
#[derive(Debug)]
pub(crate) struct HeadCache {
    width: usize,
    /// By tile, then by element of the head, then by token.
    keys: Vec<Lanes>,
    /// By tile, then by lane of the head, then by token: in the order of reading, or waiting for memory takes longer than all else.
    values: Vec<Lanes>,
}

impl HeadCache {
    /// With room for no token, of a head of `width` elements.
    pub(crate) fn new(width: usize) -> Self {
        let (keys, values) = (Vec::new(), Vec::new());
        Self {
            width,
            keys,
            values,
        }
    }

    /// Bytes for each token.
    pub(crate) fn bytes(width: usize) -> usize {
        (width + width.next_multiple_of(TILE)) * size_of::<f32>()
    }

    /// Makes room for so many tokens, keeping those that are there.
    pub(crate) fn grow(&mut self, tokens: usize) -> Result<(), TryReserveError> {
        let tiles = tokens.div_ceil(TILE);
        let (keys, values) = (tiles * self.width, tiles * TILE * self.lanes());
        for (lanes, count) in [(&mut self.keys, keys), (&mut self.values, values)] {
            lanes.try_reserve_exact(count.saturating_sub(lanes.len()))?;
            lanes.resize(count, [0.0; TILE]);
        }
        Ok(())
    }

    /// Takes over the first `tokens` of another, which has so many. There is room for them.
    pub(crate) fn copy_prefix(&mut self, other: &Self, tokens: usize) {
        let tiles = tokens.div_ceil(TILE);
        let (keys, values) = (tiles * self.width, tiles * TILE * self.lanes());
        self.keys[..keys].copy_from_slice(&other.keys[..keys]);
        self.values[..values].copy_from_slice(&other.values[..values]);
    }

    /// Keeps a token's key and value. There is room for it.
    pub(super) fn store(&mut self, token: usize, key: &[f32], value: &[f32]) {
        let (tile, lane) = (token / TILE, token % TILE);
        for (lanes, key) in self.keys[tile * self.width..].iter_mut().zip(key) {
            lanes[lane] = *key;
        }
        let first = tile * self.lanes() * TILE + lane;
        let values = self.values[first..].iter_mut().step_by(TILE);
        for (lanes, value) in values.zip(value.chunks(TILE)) {
            lanes[..value.len()].copy_from_slice(value);
        }
    }

    /// Of some tiles, `width` for each.
    pub(super) fn keys(&self, tiles: &Range<usize>) -> &[Lanes] {
        &self.keys[tiles.start * self.width..tiles.end * self.width]
    }

    /// Of some tiles, [`lanes`](Self::lanes) times [`TILE`] tokens for each.
    pub(super) fn values(&self, tiles: &Range<usize>) -> &[Lanes] {
        let tile = TILE * self.lanes();
        &self.values[tiles.start * tile..tiles.end * tile]
    }

    /// Of a value.
    pub(super) fn lanes(&self) -> usize {
        self.width.div_ceil(TILE)
    }
}
