//! What the tensors of a random package are filled with.

use std::io::{self, Write};

use half::f16;
use rand::Rng;

/// Elements drawn at a time.
const PIECE: usize = 1 << 14;

/// The elements that a tensor is filled with: each is drawn, by one random byte, from 256 that are equally likely.
pub(super) enum Elements {
    Bytes,
    U8(Box<[[u8; 1]; 256]>),
    F16(Box<[[u8; 2]; 256]>),
    F32(Box<[[u8; 4]; 256]>),
}

impl Elements {
    /// Any byte: one weight of 8 bits or two of 4.
    pub(super) fn bytes() -> Self {
        Self::Bytes
    }

    pub(super) fn ones() -> Self {
        Self::F32(Box::new([1f32.to_le_bytes(); 256]))
    }

    /// Numbers between plus and minus `limit`.
    pub(super) fn f32(limit: f32) -> Self {
        let number = |level| f32::to_le_bytes(level * limit);
        Self::F32(Box::new(levels().map(number)))
    }

    /// Numbers between plus and minus `limit`.
    pub(super) fn f16(limit: f32) -> Self {
        let number = |level| f16::from_f32(level * limit).to_le_bytes();
        Self::F16(Box::new(levels().map(number)))
    }

    /// Scales with which weights of so many bits lie between plus and minus `limit`, give or take a quarter.
    pub(super) fn scales(limit: f32, bits: u8) -> Self {
        let step = limit / f32::from(1u8 << (bits - 1));
        let scale = |level| f32::to_le_bytes(step * (1.0 + level / 4.0));
        Self::F32(Box::new(levels().map(scale)))
    }

    /// The two codes on either side of the middle, so that weights are as often below zero as above.
    pub(super) fn zero_points(bits: u8) -> Self {
        let above = 1u8 << (bits - 1);
        let code = |byte: usize| [above - u8::from(byte.is_multiple_of(2))];
        Self::U8(Box::new(std::array::from_fn(code)))
    }

    /// Writes so many.
    pub(super) fn write(
        &self,
        count: usize,
        random: &mut impl Rng,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut bytes = vec![0; PIECE];
        let mut piece = Vec::new();
        for start in (0..count).step_by(PIECE) {
            let bytes = &mut bytes[..PIECE.min(count - start)];
            random.fill_bytes(bytes);
            match self {
                Self::Bytes => out.write_all(bytes)?,
                Self::U8(table) => out.write_all(look_up(table, bytes, &mut piece))?,
                Self::F16(table) => out.write_all(look_up(table, bytes, &mut piece))?,
                Self::F32(table) => out.write_all(look_up(table, bytes, &mut piece))?,
            }
        }
        Ok(())
    }
}

/// 256 numbers from -1 to 1, evenly spaced.
fn levels() -> [f32; 256] {
    std::array::from_fn(|byte| (byte as f32 - 127.5) / 127.5)
}

/// The elements that random bytes stand for, in `piece`.
fn look_up<'a, const N: usize>(
    table: &[[u8; N]; 256],
    bytes: &[u8],
    piece: &'a mut Vec<u8>,
) -> &'a [u8] {
    piece.resize(bytes.len() * N, 0);
    for (element, byte) in piece.as_chunks_mut().0.iter_mut().zip(bytes) {
        *element = table[usize::from(*byte)];
    }
    piece
}
