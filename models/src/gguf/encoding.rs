//! How GGUF files encode numbers, in blocks of a row.
//!
//! The layouts are those of ggml's `ggml-common.h`. candle-core decodes them too, but would add 22 crates and four minutes
//! of compiling, a second tokenizer library among them, and reads past the end of a slice that is too short.

use half::{bf16, f16};

/// How the numbers of a tensor are encoded.
#[allow(
    non_camel_case_types,
    reason = "these are the names everybody knows them by"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Weights in the largest block.
const MAX_BLOCK: usize = 256;
/// Bytes that hold the scales and minima of a block of [`Encoding::Q4_K`] or [`Encoding::Q5_K`].
const K_SCALES: usize = 12;

/// A block taken apart. Its weights are in runs of one length; each is `code * scale + offset` with the scale and the
/// offset of its run.
struct Unpacked {
    codes: [u8; MAX_BLOCK],
    runs: [(f32, f32); 16],
}

impl Encoding {
    pub(crate) const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The number that stands for it in a file.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    pub(super) fn of(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|encoding| encoding.number() == number)
    }

    /// Weights in a block.
    pub(crate) fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4_K => 2 + 2 + K_SCALES + 128,
            Self::Q5_K => 2 + 2 + K_SCALES + 32 + 128,
            Self::Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// Weights that share a scale.
    fn run(self) -> usize {
        match self {
            Self::Q6_K => 16,
            _ => self.block().min(32),
        }
    }

    /// Decodes whole blocks.
    ///
    /// # Panics
    ///
    /// If `bytes` are not the blocks of as many weights as `out` has room for.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            (out.len() % self.block(), bytes.len()),
            (0, out.len() / self.block() * self.block_bytes()),
            "whole blocks are decoded"
        );
        match self {
            Self::F32 => numbers(bytes, out, f32::from_le_bytes),
            Self::F16 => numbers(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::BF16 => numbers(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            _ => {
                let blocks = bytes.chunks_exact(self.block_bytes());
                for (bytes, out) in blocks.zip(out.chunks_exact_mut(self.block())) {
                    let Unpacked { codes, runs } = self.unpack(bytes);
                    let codes = codes.chunks_exact(self.run());
                    let out = out.chunks_exact_mut(self.run());
                    for ((out, codes), (scale, offset)) in out.zip(codes).zip(runs) {
                        for (out, code) in out.iter_mut().zip(codes) {
                            *out = f32::from(*code) * scale + offset;
                        }
                    }
                }
            }
        }
    }

    /// The zero point that belongs to the codes which [`Encoding::copy_codes`] gives, if blocks of `block` weights with
    /// `bits` each can hold them just as they are.
    pub(crate) fn zero_point(self, bits: u8, block: usize) -> Option<u8> {
        let (needed, zero) = match self {
            Self::Q4_0 => (4, 8),
            Self::Q5_0 => (5, 16),
            Self::Q6_K => (6, 32),
            Self::Q8_0 => (8, 128),
            _ => return None,
        };
        (bits >= needed && self.run().is_multiple_of(block)).then_some(zero)
    }

    /// Takes blocks apart: one code for each weight to `codes`, one scale for every `block` weights to `scales`. A
    /// weight is `(code - zero_point) * scale`.
    pub(crate) fn copy_codes(
        self,
        bytes: &[u8],
        block: usize,
        codes: &mut Vec<u8>,
        scales: &mut Vec<f32>,
    ) {
        for bytes in bytes.chunks_exact(self.block_bytes()) {
            let unpacked = self.unpack(bytes);
            codes.extend(&unpacked.codes[..self.block()]);
            for (scale, _) in &unpacked.runs[..self.block() / self.run()] {
                scales.extend(std::iter::repeat_n(scale, self.run() / block));
            }
        }
    }

    /// Takes apart a block, which has as many bytes as blocks of this encoding have.
    fn unpack(self, block: &[u8]) -> Unpacked {
        let mut codes = [0; MAX_BLOCK];
        let mut runs = [(0.0, 0.0); 16];
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        match self {
            Self::F32 | Self::F16 | Self::BF16 => unreachable!("numbers without codes"),
            Self::Q4_0 => {
                nibbles(&block[2..], &mut codes);
                runs[0] = symmetric(half(0), 8);
            }
            Self::Q4_1 => {
                nibbles(&block[4..], &mut codes);
                runs[0] = (half(0), half(2));
            }
            Self::Q5_0 => {
                nibbles(&block[6..], &mut codes);
                fifth_bits(&block[2..6], &mut codes);
                runs[0] = symmetric(half(0), 16);
            }
            Self::Q5_1 => {
                nibbles(&block[8..], &mut codes);
                fifth_bits(&block[4..8], &mut codes);
                runs[0] = (half(0), half(2));
            }
            Self::Q8_0 => {
                for (code, byte) in codes.iter_mut().zip(&block[2..]) {
                    // From two's complement to counting from 128.
                    *code = byte ^ 128;
                }
                runs[0] = symmetric(half(0), 128);
            }
            Self::Q4_K | Self::Q5_K => {
                let (head, rest) = block.split_at(4 + K_SCALES);
                let (high, low) = rest.split_at(rest.len() - 128);
                for (bytes, codes) in low.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
                    nibbles(bytes, codes);
                }
                // Bit r of byte i belongs to weight i of run r. There are none with 4 bits.
                for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
                    for (code, byte) in codes.iter_mut().zip(high) {
                        *code |= (byte >> run & 1) << 4;
                    }
                }
                let (scale, minimum) = (half(0), half(2));
                for (run, (scale_of_run, offset)) in runs[..8].iter_mut().enumerate() {
                    let (s, m) = six_bits(&head[4..], run);
                    *scale_of_run = scale * f32::from(s);
                    *offset = -(minimum * f32::from(m));
                }
            }
            Self::Q6_K => {
                let (low, rest) = block.split_at(128);
                let (high, scales) = rest.split_at(64);
                let halves = low.chunks_exact(64).zip(high.chunks_exact(32));
                for (codes, (low, high)) in codes.chunks_exact_mut(128).zip(halves) {
                    nibbles(low, codes);
                    for (i, code) in codes.iter_mut().enumerate() {
                        *code |= (high[i % 32] >> (i / 32 * 2) & 3) << 4;
                    }
                }
                for (run, scale) in runs.iter_mut().zip(scales) {
                    *run = symmetric(half(208) * f32::from(scale.cast_signed()), 32);
                }
            }
        }
        Unpacked { codes, runs }
    }
}

/// What a type is called that is not read.
pub(super) fn name_of_unread(number: u32) -> &'static str {
    match number {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16..=18 | 19..=23 | 29 => "one of the IQ types",
        24..=28 => "an integer or F64",
        34 | 35 => "one of the TQ types",
        39 | 40 => "one of the FP4 types",
        _ => "of a type that HALO does not know",
    }
}

fn numbers<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = number(*bytes);
    }
}

/// Scale and offset of weights `(code - zero) * scale`.
fn symmetric(scale: f32, zero: u8) -> (f32, f32) {
    (scale, -scale * f32::from(zero))
}

/// The low halves of some bytes, then their high halves.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// Adds the fifth bits of 32 codes, which lie in order.
fn fifth_bits(bits: &[u8], codes: &mut [u8]) {
    for (i, code) in codes[..32].iter_mut().enumerate() {
        *code |= (bits[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// Scale and minimum of one of the eight runs of a block: those of the first four are the low six bits of a byte each;
/// of the others four bits are together in a byte, and two each above those of the first.
fn six_bits(packed: &[u8], run: usize) -> (u8, u8) {
    let (scales, rest) = packed.split_at(4);
    let (minima, both) = rest.split_at(4);
    match run.checked_sub(4) {
        None => (scales[run] & 63, minima[run] & 63),
        Some(i) => (
            both[i] & 15 | scales[i] >> 6 << 4,
            both[i] >> 4 | minima[i] >> 6 << 4,
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gguf::{Element, Gguf};

    fn vectors() -> Gguf {
        let path = "tests/data/gguf/encodings.gguf";
        Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    fn bytes<'a>(file: &'a Gguf, tensor: &str) -> (&'a [u8], Encoding) {
        let tensor = &file.tensors()[tensor];
        let Element::Known(encoding) = tensor.element else {
            panic!("{:?}", tensor.element);
        };
        (&file.map()[tensor.range.clone()], encoding)
    }

    fn decoded(encoding: Encoding, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / encoding.block_bytes() * encoding.block()];
        encoding.decode(bytes, &mut out);
        out
    }

    /// Random blocks of each type, and beside them what the `gguf` package of PyPI, which uses NumPy, makes of them.
    #[test]
    fn decodes_to_the_bit_what_the_reference_decodes() {
        let file = vectors();
        for encoding in Encoding::ALL {
            let (bytes_, found) = bytes(&file, &format!("{encoding:?}"));
            assert_eq!(found, encoding);
            let (expected, _) = bytes(&file, &format!("{encoding:?}.decoded"));
            let expected = decoded(Encoding::F32, expected);
            assert!(expected.len() >= 2 * encoding.block(), "{encoding:?}");
            assert_eq!(decoded(encoding, bytes_), expected, "{encoding:?}");
        }
    }

    #[test]
    fn codes_are_copied_where_they_fit() {
        let file = vectors();
        for (encoding, bits, block) in [
            (Encoding::Q4_0, 4, 32),
            (Encoding::Q4_0, 4, 16),
            (Encoding::Q4_0, 8, 32),
            (Encoding::Q5_0, 8, 32),
            (Encoding::Q6_K, 8, 16),
            (Encoding::Q8_0, 8, 32),
        ] {
            let zero_point = encoding.zero_point(bits, block).unwrap();
            let (bytes, _) = bytes(&file, &format!("{encoding:?}"));
            let (mut codes, mut scales) = (Vec::new(), Vec::new());
            encoding.copy_codes(bytes, block, &mut codes, &mut scales);
            assert!(codes.iter().all(|code| u32::from(*code) < 1 << bits));
            let weights = (codes.chunks_exact(block).zip(&scales))
                .flat_map(|(codes, scale)| {
                    let weight =
                        move |code: &u8| (f32::from(*code) - f32::from(zero_point)) * scale;
                    codes.iter().map(weight)
                })
                .collect::<Vec<_>>();
            assert_eq!(weights, decoded(encoding, bytes), "{encoding:?}");
        }
        for (encoding, bits, block) in [
            (Encoding::Q4_0, 4, 64),
            (Encoding::Q4_1, 4, 32),
            (Encoding::Q4_K, 4, 32),
            (Encoding::Q5_0, 4, 32),
            (Encoding::Q6_K, 8, 32),
            (Encoding::Q8_0, 4, 32),
            (Encoding::F16, 8, 16),
        ] {
            assert_eq!(encoding.zero_point(bits, block), None, "{encoding:?}");
        }
    }
}
