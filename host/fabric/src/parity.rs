//! A packet that stands in for any one packet of a tensor.

use crate::TensorShape;

/// The most chunks that one parity packet is sent for. Of more, one lost packet in so many is asked for again sooner than two of
/// them would be made up for.
const MAX_CHUNKS: u16 = 8;

/// The exclusive or of chunks' bodies, each padded with zeros to the longest: of all of a tensor's chunks it is their parity, of
/// that and all chunks but one, the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parity(Vec<u8>);

impl Parity {
    /// That of no chunks at all. `None` for a tensor of too many chunks: such have no parity.
    #[must_use]
    pub fn new(shape: &TensorShape) -> Option<Self> {
        (shape.chunks() <= MAX_CHUNKS).then(|| Self(vec![0; Self::bytes_of(shape)]))
    }

    /// The size of the body of a tensor's parity packet, in bytes.
    pub(crate) fn bytes_of(shape: &TensorShape) -> usize {
        // Only the last part of a row can be shorter than the others.
        shape.chunk_bytes(0)
    }

    /// Adds a chunk's body, or takes it away again.
    pub fn add(&mut self, body: &[u8]) {
        self.0
            .iter_mut()
            .zip(body)
            .for_each(|(sum, byte)| *sum ^= byte);
    }

    /// The body of the parity packet, if all chunks have been added.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0
    }
}
