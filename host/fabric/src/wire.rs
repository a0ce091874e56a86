//! The packets of the data plane.
//!
//! A packet is a header of 40 bytes, little-endian, and a body:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..2 | magic, `HL` |
//! | 2 | version of the format, 1 |
//! | 3 | kind |
//! | 4 | encoding |
//! | 5 | flags |
//! | 6..8 | layer |
//! | 8..16 | generation |
//! | 16..20 | epoch of the placement |
//! | 20..24 | step: number of the forward pass |
//! | 24..28 | width: values per row |
//! | 28..32 | sequence number within the directed pair of nodes |
//! | 32..34 | rows |
//! | 34..36 | chunk |
//! | 36..38 | chunks |
//! | 38 | 1 if a parity packet follows the chunks, or is this one; else 0 |
//! | 39 | block: which part of the layer |
//!
//! Bodies: [`Kind::Activation`] and [`Kind::Partial`] carry one chunk in the header's encoding, or, numbered as the chunk
//! after the last, the [parity](Parity) of them all, and an activation of [`Block::Attention`] before it the [`Place`] of the
//! chunk's row; [`Kind::Ask`] a bitmap
//! of the missing chunks, the lowest bit of the first byte standing for the header's chunk; [`Kind::Ping`] the sender's
//! clock; [`Kind::Pong`] that clock again and what has arrived from the other side (see `heartbeat.rs`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Encoding, Parity, TensorShape, WireError};

/// Version of the packet format.
pub(crate) const VERSION: u8 = 1;
/// Every packet's first two bytes.
const MAGIC: [u8; 2] = *b"HL";

/// Size of a header.
pub const HEADER_BYTES: usize = size_of::<RawHeader>();
/// The largest chunk or other body: with the header, a place and zenoh's framing a packet stays within one datagram of 1,400 bytes.
pub const MAX_BODY_BYTES: usize = 1280;
/// A row's place before a chunk of it.
const PLACE_BYTES: usize = size_of::<RawPlace>();
/// The largest packet.
pub const MAX_PACKET_BYTES: usize = HEADER_BYTES + PLACE_BYTES + MAX_BODY_BYTES;

/// Body of a ping: a clock.
pub(crate) const PING_BYTES: usize = 8;
/// Body of a pong: the clock again, packets received, packets lost.
pub(crate) const PONG_BYTES: usize = 24;

/// Flag of [`Kind::Ask`]: chunks of a [`Kind::Partial`] are asked for, rather than of a [`Kind::Activation`].
pub const ASK_PARTIAL: u8 = 1;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A chunk of a layer's input, from leader to worker.
    Activation = 1,
    /// A chunk of a layer's partial result, from worker to leader.
    Partial = 2,
    /// Chunks of one of these are missing: please send them again.
    Ask = 3,
    /// Are you there?
    Ping = 4,
    /// Yes.
    Pong = 5,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Activation,
        Self::Partial,
        Self::Ask,
        Self::Ping,
        Self::Pong,
    ];

    /// Position in [`Kind::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize - 1
    }
}

/// The part of a layer that a packet is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Block {
    /// The feed-forward, and whatever is of no layer.
    #[default]
    FeedForward = 0,
    /// The attention.
    Attention = 1,
}

/// Where a row of an attention's activation belongs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the text, chosen by its leader: there is a KV cache for each.
    pub text: u32,
    /// The token's position in it.
    pub position: u32,
}

/// What a packet says of itself, but for the sequence number, which the link fills in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the packet is.
    pub kind: Kind,
    /// How the tensor's values are written.
    pub encoding: Encoding,
    /// For [`Kind::Ask`] zero or [`ASK_PARTIAL`]; of tensors the sender's to use, the fabric does not look at them.
    pub flags: u8,
    /// Layer of the model.
    pub layer: u16,
    /// Which part of it.
    pub block: Block,
    /// Random number of the generation, chosen by its leader.
    pub generation: u64,
    /// Epoch of the placement.
    pub epoch: u32,
    /// Number of the forward pass within the generation.
    pub step: u32,
    /// Rows of the tensor.
    pub rows: u16,
    /// Values per row of the tensor.
    pub width: u32,
    /// Which chunk of the tensor; for [`Kind::Ask`] the chunk that the bitmap begins with.
    pub chunk: u16,
    /// How many chunks the tensor has.
    pub chunks: u16,
    /// The tensor's chunks are followed by their parity, which has the number `chunks`.
    pub parity: bool,
}

impl Header {
    /// The header of chunk 0 of a tensor, all that tells it from others of its shape left zero.
    #[must_use]
    pub fn of_tensor(kind: Kind, shape: &TensorShape) -> Self {
        Self {
            kind,
            encoding: shape.encoding(),
            flags: 0,
            layer: 0,
            block: Block::FeedForward,
            generation: 0,
            epoch: 0,
            step: 0,
            // A shape's rows and width are bounded when it is made.
            rows: shape.rows() as u16,
            width: shape.width() as u32,
            chunk: 0,
            chunks: shape.chunks(),
            parity: false,
        }
    }

    /// The header of a packet without a tensor.
    pub(crate) fn of_heartbeat(kind: Kind) -> Self {
        Self {
            kind,
            encoding: Encoding::F32,
            flags: 0,
            layer: 0,
            block: Block::FeedForward,
            generation: 0,
            epoch: 0,
            step: 0,
            rows: 0,
            width: 0,
            chunk: 0,
            chunks: 0,
            parity: false,
        }
    }

    /// Whether this is a tensor's parity rather than one of its chunks.
    #[must_use]
    pub fn is_parity(&self) -> bool {
        self.parity && self.chunk == self.chunks
    }

    /// The tensor's shape.
    ///
    /// # Errors
    ///
    /// If no tensor can have it.
    pub fn shape(&self) -> Result<TensorShape, WireError> {
        Ok(TensorShape::new(
            usize::from(self.rows),
            self.width as usize,
            self.encoding,
        )?)
    }

    /// Checks that the fields fit one another and the body.
    pub(crate) fn check(&self, body: &[u8]) -> Result<(), WireError> {
        match self.kind {
            Kind::Activation | Kind::Partial => {
                let shape = self.shape()?;
                // What parity makes up for has no place of its own.
                let placeless = self.has_place() && self.rows > 1;
                if self.parity && (placeless || Parity::new(&shape).is_none()) {
                    return Err(WireError::Field);
                }
                let place = if self.has_place() { PLACE_BYTES } else { 0 };
                if self.is_parity() && self.chunks == shape.chunks() {
                    return check_body(body, body.len() == place + Parity::bytes_of(&shape));
                }
                self.check_chunk(&shape)?;
                check_body(body, body.len() == place + shape.chunk_bytes(self.chunk))
            }
            Kind::Ask => {
                let shape = self.shape()?;
                self.check_chunk(&shape)?;
                if self.flags & !ASK_PARTIAL != 0 || self.parity {
                    return Err(WireError::Field);
                }
                let bits = usize::from(shape.chunks() - self.chunk);
                let whole = bits.div_ceil(8).min(MAX_BODY_BYTES);
                // Bits beyond the last chunk stand for nothing.
                let clean = body.len() * 8 <= bits || body[bits / 8] >> (bits % 8) == 0;
                check_body(body, (1..=whole).contains(&body.len()) && clean)
            }
            Kind::Ping | Kind::Pong => {
                if *self != Self::of_heartbeat(self.kind) {
                    return Err(WireError::Field);
                }
                let size = if self.kind == Kind::Ping {
                    PING_BYTES
                } else {
                    PONG_BYTES
                };
                check_body(body, body.len() == size)
            }
        }
    }

    /// Whether a body begins with a row's place.
    fn has_place(&self) -> bool {
        (self.kind, self.block) == (Kind::Activation, Block::Attention)
    }

    /// Of a tensor's body, its chunk, and before it the place of its row, if it has one.
    #[must_use]
    pub fn split<'a>(&self, body: &'a [u8]) -> (Option<Place>, &'a [u8]) {
        match RawPlace::ref_from_prefix(body) {
            Ok((place, chunk)) if self.has_place() => {
                let place = Place {
                    text: place.text.get(),
                    position: place.position.get(),
                };
                (Some(place), chunk)
            }
            _ => (None, body),
        }
    }

    /// Checks that the chunk is one of the shape's.
    fn check_chunk(&self, shape: &TensorShape) -> Result<(), WireError> {
        if self.chunks != shape.chunks() || self.chunk >= self.chunks {
            return Err(WireError::Chunk {
                chunk: self.chunk,
                chunks: self.chunks,
                expected: shape.chunks(),
            });
        }
        Ok(())
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// If the fields do not fit one another or the body: whatever this writes, [`Packet::parse`] reads.
    pub fn write(&self, sequence: u32, body: &[u8]) -> Result<Vec<u8>, WireError> {
        self.check(body)?;
        Ok(self.write_checked(sequence, body))
    }

    /// Writes a packet that [`Header::check`] has found right.
    pub(crate) fn write_checked(&self, sequence: u32, body: &[u8]) -> Vec<u8> {
        let raw = RawHeader {
            magic: MAGIC,
            version: VERSION,
            kind: self.kind as u8,
            encoding: self.encoding as u8,
            flags: self.flags,
            layer: self.layer.into(),
            generation: self.generation.into(),
            epoch: self.epoch.into(),
            step: self.step.into(),
            width: self.width.into(),
            sequence: sequence.into(),
            rows: self.rows.into(),
            chunk: self.chunk.into(),
            chunks: self.chunks.into(),
            parity: self.parity.into(),
            block: self.block as u8,
        };
        let mut packet = Vec::with_capacity(HEADER_BYTES + body.len());
        packet.extend_from_slice(raw.as_bytes());
        packet.extend_from_slice(body);
        packet
    }
}

/// Fails unless `fits`.
fn check_body(body: &[u8], fits: bool) -> Result<(), WireError> {
    if fits {
        Ok(())
    } else {
        Err(WireError::Body { actual: body.len() })
    }
}

/// The header as it lies in a packet.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 2],
    version: u8,
    kind: u8,
    encoding: u8,
    flags: u8,
    layer: U16,
    generation: U64,
    epoch: U32,
    step: U32,
    width: U32,
    sequence: U32,
    rows: U16,
    chunk: U16,
    chunks: U16,
    parity: u8,
    block: u8,
}

/// A place as it lies in a packet.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPlace {
    text: U32,
    position: U32,
}

impl Place {
    /// Appends it to a body, before the chunk.
    pub fn write(self, body: &mut Vec<u8>) {
        let raw = RawPlace {
            text: self.text.into(),
            position: self.position.into(),
        };
        body.extend_from_slice(raw.as_bytes());
    }
}

/// A packet whose fields fit one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it says of itself.
    pub header: Header,
    /// Its number within the directed pair of nodes.
    pub sequence: u32,
    /// What it carries.
    pub body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a packet from any bytes whatsoever.
    ///
    /// # Errors
    ///
    /// If they are not a packet, or its fields do not fit one another. The values of a chunk are checked only when
    /// they are decoded.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_PACKET_BYTES {
            return Err(WireError::Length(bytes.len()));
        }
        let (raw, body) =
            RawHeader::ref_from_prefix(bytes).map_err(|_| WireError::Length(bytes.len()))?;
        if raw.magic != MAGIC {
            return Err(WireError::Magic);
        }
        if raw.version != VERSION {
            return Err(WireError::Version(raw.version));
        }
        let kind = Kind::ALL.into_iter().find(|k| *k as u8 == raw.kind);
        let header = Header {
            kind: kind.ok_or(WireError::Kind(raw.kind))?,
            encoding: Encoding::from_wire(raw.encoding).ok_or(WireError::Encoding(raw.encoding))?,
            flags: raw.flags,
            layer: raw.layer.get(),
            block: match raw.block {
                0 => Block::FeedForward,
                1 => Block::Attention,
                _ => return Err(WireError::Field),
            },
            generation: raw.generation.get(),
            epoch: raw.epoch.get(),
            step: raw.step.get(),
            rows: raw.rows.get(),
            width: raw.width.get(),
            chunk: raw.chunk.get(),
            chunks: raw.chunks.get(),
            parity: raw.parity == 1,
        };
        if raw.parity > 1 {
            return Err(WireError::Field);
        }
        header.check(body)?;
        Ok(Self {
            header,
            sequence: raw.sequence.get(),
            body,
        })
    }

    /// The chunks that a [`Kind::Ask`] asks for; none for other kinds.
    pub fn asked(&self) -> impl Iterator<Item = u16> + use<'a> {
        let first = self.header.chunk;
        let last = self.header.chunks;
        let body = if self.header.kind == Kind::Ask {
            self.body
        } else {
            &[]
        };
        (first..last)
            .zip(
                body.iter()
                    .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)),
            )
            .filter_map(|(chunk, asked)| asked.then_some(chunk))
    }
}

#[cfg(test)]
mod tests;
