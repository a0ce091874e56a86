//! How a tensor is cut into chunks, and put together again.

use std::ops::Range;

use crate::encoding::BLOCK;
use crate::wire::{Header, MAX_BODY_BYTES};
use crate::{Encoding, Parity, ShapeError};

/// The shape of a tensor on the wire, from which both sides know its chunks.
///
/// Each row is cut into the same number of parts, each a contiguous range of whole blocks of 32 values (but for the
/// row's end), as equal as blocks allow, and small enough for one datagram. Chunk `row * parts + part` is one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorShape {
    rows: u16,
    width: u32,
    encoding: Encoding,
    /// Values in every part but the last.
    part_values: u32,
    /// Parts of a row.
    parts: u16,
}

impl TensorShape {
    /// The most rows a tensor may have.
    pub const MAX_ROWS: usize = 1024;
    /// The most values a row may have.
    pub const MAX_WIDTH: usize = 65_536;
    /// The most chunks a tensor may have.
    pub const MAX_CHUNKS: usize = 65_535;

    /// The shape of `rows` rows of `width` values each.
    ///
    /// # Errors
    ///
    /// If there are no values, or more rows, values or chunks than the limits allow.
    pub fn new(rows: usize, width: usize, encoding: Encoding) -> Result<Self, ShapeError> {
        if !(1..=Self::MAX_ROWS).contains(&rows) {
            return Err(ShapeError::Rows(rows));
        }
        if !(1..=Self::MAX_WIDTH).contains(&width) {
            return Err(ShapeError::Width(width));
        }
        let blocks = width.div_ceil(BLOCK);
        let parts = blocks.div_ceil(MAX_BODY_BYTES / encoding.bytes(BLOCK));
        let part_values = blocks.div_ceil(parts) * BLOCK;
        // Rounding the parts' size up to whole blocks can leave fewer parts.
        let parts = width.div_ceil(part_values);
        let chunks = rows * parts;
        if chunks > Self::MAX_CHUNKS {
            return Err(ShapeError::Chunks(chunks));
        }
        Ok(Self {
            // Bounded by the checks above.
            rows: rows as u16,
            width: width as u32,
            encoding,
            part_values: part_values as u32,
            parts: parts as u16,
        })
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        usize::from(self.rows)
    }

    /// Values per row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width as usize
    }

    /// How the values are written.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Values of all rows together.
    #[must_use]
    pub fn values(&self) -> usize {
        self.rows() * self.width()
    }

    /// Number of chunks, and so of packets.
    #[must_use]
    pub fn chunks(&self) -> u16 {
        self.rows * self.parts
    }

    /// Number of chunks of one row.
    #[must_use]
    pub fn chunks_per_row(&self) -> u16 {
        self.parts
    }

    /// The row a chunk belongs to.
    #[must_use]
    pub fn row(&self, chunk: u16) -> usize {
        usize::from(chunk / self.parts)
    }

    /// The values of a chunk, as a range of the row-major tensor.
    ///
    /// # Panics
    ///
    /// If the shape has no such chunk.
    #[must_use]
    pub fn range(&self, chunk: u16) -> Range<usize> {
        assert!(chunk < self.chunks(), "chunk {chunk} of {}", self.chunks());
        let start = usize::from(chunk % self.parts) * self.part_values as usize;
        let end = (start + self.part_values as usize).min(self.width());
        let row = self.row(chunk) * self.width();
        row + start..row + end
    }

    /// The size of a chunk's body in bytes.
    ///
    /// # Panics
    ///
    /// If the shape has no such chunk.
    #[must_use]
    pub fn chunk_bytes(&self, chunk: u16) -> usize {
        self.encoding.bytes(self.range(chunk).len())
    }

    /// Appends the body of one chunk of the row-major `values` to `out`.
    ///
    /// # Panics
    ///
    /// If the shape has no such chunk or another number of values.
    pub fn encode_chunk(&self, chunk: u16, values: &[f32], out: &mut Vec<u8>) {
        assert_eq!(values.len(), self.values(), "values of {self:?}");
        self.encoding.encode(&values[self.range(chunk)], out);
    }
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Its values were missing and are in place now.
    New,
    /// It is the parity, which makes up for a packet that has not been missed, or for one of those that are missed yet.
    Spare,
    /// Its values were in place already; nothing changed.
    Duplicate,
    /// It cannot be a chunk of this tensor; nothing changed.
    Rejected(Rejection),
}

/// Why a chunk cannot be part of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Rows, width, encoding or number of chunks are others.
    Shape,
    /// There is no chunk of that number.
    Chunk,
    /// The body is not as long as the chunk is, or holds values that are not finite.
    Body,
}

/// Packets of a tensor that may be under way to a node at once. So many fit into a socket's buffer as Linux makes it by default,
/// even if nobody reads it for a while; what is beyond them is sent when it is asked for.
pub const WINDOW: u16 = 64;

/// A tensor that arrives in chunks: its values, and which of them have come.
///
/// What has not come is zero. The memory is that of the shape it is made with, whatever packets say.
///
/// The first [`WINDOW`] chunks come by themselves, the others when they are [asked](Self::ask) for. Packets do not overtake one
/// another, so when the last one under way is there, whatever is missing then has been lost or not been sent: it can be asked for
/// at once, without waiting. If their parity follows, it is the last one, and any one chunk that has not come is made from it.
#[derive(Debug, Clone)]
pub struct Assembly {
    shape: TensorShape,
    values: Vec<f32>,
    received: Vec<u64>,
    missing: u16,
    /// Of the packets that have come.
    sum: Option<Parity>,
    /// The parity is one of them.
    parity: bool,
    /// The last chunk that is under way.
    last: u16,
}

impl Assembly {
    /// An assembly of which nothing has come.
    #[must_use]
    pub fn new(shape: TensorShape) -> Self {
        Self {
            shape,
            values: vec![0.0; shape.values()],
            received: vec![0; usize::from(shape.chunks()).div_ceil(64)],
            missing: shape.chunks(),
            sum: Parity::new(&shape),
            parity: false,
            last: WINDOW.min(shape.chunks()) - 1,
        }
    }

    /// The shape it was made with.
    #[must_use]
    pub fn shape(&self) -> &TensorShape {
        &self.shape
    }

    /// Takes in one chunk.
    ///
    /// Only the header's shape and chunk number are looked at: the caller has found by the other fields that the
    /// packet is of this tensor.
    pub fn accept(&mut self, header: &Header, body: &[u8]) -> Accepted {
        let shape = &self.shape;
        if (header.rows, header.width) != (shape.rows, shape.width)
            || header.encoding != shape.encoding
            || header.chunks != shape.chunks()
        {
            return Accepted::Rejected(Rejection::Shape);
        }
        if header.is_parity() {
            return self.accept_parity(body);
        }
        if header.chunk >= shape.chunks() {
            return Accepted::Rejected(Rejection::Chunk);
        }
        if self.has(header.chunk) {
            return Accepted::Duplicate;
        }
        if !self.put(header.chunk, body) {
            return Accepted::Rejected(Rejection::Body);
        }
        if let Some(sum) = &mut self.sum {
            sum.add(body);
        }
        self.recover();
        Accepted::New
    }

    fn accept_parity(&mut self, body: &[u8]) -> Accepted {
        if self.parity {
            return Accepted::Duplicate;
        }
        let Some(sum) = &mut self.sum else {
            return Accepted::Rejected(Rejection::Chunk);
        };
        if body.len() != sum.body().len() {
            return Accepted::Rejected(Rejection::Body);
        }
        self.parity = true;
        sum.add(body);
        if self.recover() {
            Accepted::New
        } else {
            Accepted::Spare
        }
    }

    /// Makes the one chunk that is missing from the parity and the others. False if there is nothing to make, or nothing to make it from.
    fn recover(&mut self) -> bool {
        let Some(sum) = self.sum.take_if(|_| self.parity && self.missing == 1) else {
            return false;
        };
        let missing = self.missing().next();
        missing.is_some_and(|chunk| {
            let bytes = self.shape.chunk_bytes(chunk);
            self.put(chunk, &sum.body()[..bytes])
        })
    }

    /// Puts a chunk's values in place. False, and they are zero, if that is not what the body holds.
    fn put(&mut self, chunk: u16, body: &[u8]) -> bool {
        let target = &mut self.values[self.shape.range(chunk)];
        if !self.shape.encoding.decode(body, target) {
            target.fill(0.0);
            return false;
        }
        self.received[usize::from(chunk) / 64] |= 1 << (chunk % 64);
        self.missing -= 1;
        true
    }

    /// Whether a chunk has come.
    #[must_use]
    pub fn has(&self, chunk: u16) -> bool {
        self.received
            .get(usize::from(chunk) / 64)
            .is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// Whether every chunk has come.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.missing == 0
    }

    /// How many chunks have not come.
    #[must_use]
    pub fn missing_count(&self) -> u16 {
        self.missing
    }

    /// The chunks that have not come, in order.
    pub fn missing(&self) -> impl Iterator<Item = u16> + '_ {
        (0..self.shape.chunks()).filter(|&chunk| !self.has(chunk))
    }

    /// Whether a packet is the last one under way.
    #[must_use]
    pub fn is_last(&self, header: &Header) -> bool {
        header.is_parity() || (!header.parity && header.chunk == self.last)
    }

    /// The body of the packet that asks for what is missing ([`Kind::Ask`](crate::Kind::Ask)), and the first chunk that it speaks
    /// of: as many as a [`WINDOW`] holds, and as are near enough to one another for one packet. Those are under way then.
    pub fn ask(&mut self) -> Option<(u16, Vec<u8>)> {
        let first = self.missing().next()?;
        let mut bits = Vec::new();
        let mut last = first;
        let near = |&chunk: &u16| usize::from(chunk - first) < MAX_BODY_BYTES * 8;
        for chunk in self.missing().take_while(near).take(usize::from(WINDOW)) {
            let bit = usize::from(chunk - first);
            bits.resize(bit / 8 + 1, 0);
            bits[bit / 8] |= 1 << (bit % 8);
            last = chunk;
        }
        self.last = last;
        Some((first, bits))
    }

    /// The values, row by row; zero where nothing has come.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to conceal what is missing in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The values, without the assembly.
    #[must_use]
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Forgets everything that has come, to use the memory for another tensor of the same shape.
    pub fn reset(&mut self) {
        self.values.fill(0.0);
        self.received.fill(0);
        self.missing = self.shape.chunks();
        self.sum = Parity::new(&self.shape);
        self.parity = false;
        self.last = WINDOW.min(self.missing) - 1;
    }
}

#[cfg(test)]
mod tests;
