//! How values are written in packets.
//!
//! Every encoding works on blocks of 32 values (the last block of a row may be shorter) and is deterministic.
//!
//! What is sent is always finite: the encoder replaces NaN by zero and clamps the rest, infinities included, to what
//! the encoding can hold. What is received is checked: a chunk with a value or scale that is not finite is refused
//! as a whole.

use half::f16;
use serde::{Deserialize, Serialize};

/// Values per block.
pub(crate) const BLOCK: usize = 32;

/// Largest finite value of an f16.
const F16_MAX: f32 = 65_504.0;

/// How the values of a tensor are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Encoding {
    /// 32-bit floats: exact.
    F32 = 0,
    /// 16-bit floats, rounded to nearest even; clamped to ±65,504.
    F16 = 1,
    /// 8 bits a value in blocks of 32 with an f16 scale: 2,048 values are 2,176 bytes. Clamped to about ±8.3 million.
    Q8 = 2,
    /// 4 bits a value in blocks of 32 with an f16 scale: 2,048 values are 1,152 bytes. Clamped to about ±458,528.
    Q4 = 3,
}

impl Encoding {
    /// All encodings, the most exact first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8, Self::Q4];

    /// The encoding with this number on the wire.
    #[must_use]
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|e| *e as u8 == number)
    }

    /// Bytes that `values` consecutive values take.
    #[must_use]
    pub const fn bytes(self, values: usize) -> usize {
        let blocks = values.div_ceil(BLOCK);
        match self {
            Self::F32 => values * 4,
            Self::F16 => values * 2,
            Self::Q8 => blocks * 2 + values,
            // Blocks have an even number of values but for the last one.
            Self::Q4 => blocks * 2 + values.div_ceil(2),
        }
    }

    /// Appends `values`, encoded, to `out`: [`Encoding::bytes`] of them.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        out.reserve(self.bytes(values.len()));
        match self {
            Self::F32 => {
                for &value in values {
                    out.extend_from_slice(&bounded(value, f32::MAX).to_le_bytes());
                }
            }
            Self::F16 => {
                for &value in values {
                    let value = f16::from_f32(bounded(value, F16_MAX));
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }
            Self::Q8 => values.chunks(BLOCK).for_each(|block| encode_q8(block, out)),
            Self::Q4 => values.chunks(BLOCK).for_each(|block| encode_q4(block, out)),
        }
    }

    /// Decodes `bytes` into `values`.
    ///
    /// Returns false, with `values` in any state, if the length does not fit or something is not finite.
    #[must_use]
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) -> bool {
        if bytes.len() != self.bytes(values.len()) {
            return false;
        }
        match self {
            Self::F32 => {
                let (words, _) = bytes.as_chunks::<4>();
                for (value, word) in values.iter_mut().zip(words) {
                    *value = f32::from_le_bytes(*word);
                }
                values.iter().all(|v| v.is_finite())
            }
            Self::F16 => {
                let (words, _) = bytes.as_chunks::<2>();
                for (value, word) in values.iter_mut().zip(words) {
                    *value = f16::from_le_bytes(*word).to_f32();
                }
                values.iter().all(|v| v.is_finite())
            }
            Self::Q8 => decode_blocks(self, bytes, values, |scale, body, block| {
                for (value, &q) in block.iter_mut().zip(body) {
                    *value = scale * f32::from(q.cast_signed());
                }
            }),
            Self::Q4 => decode_blocks(self, bytes, values, |scale, body, block| {
                for (pair, &byte) in block.chunks_mut(2).zip(body) {
                    pair[0] = scale * (f32::from(byte & 0xf) - 8.0);
                    if let Some(second) = pair.get_mut(1) {
                        *second = scale * (f32::from(byte >> 4) - 8.0);
                    }
                }
            }),
        }
    }
}

/// Splits encoded blocks into scale and body; false if a scale is not finite.
fn decode_blocks(
    encoding: Encoding,
    mut bytes: &[u8],
    values: &mut [f32],
    decode: impl Fn(f32, &[u8], &mut [f32]),
) -> bool {
    for block in values.chunks_mut(BLOCK) {
        let Some((encoded, rest)) = bytes.split_at_checked(encoding.bytes(block.len())) else {
            return false;
        };
        let Some((scale, body)) = encoded.split_first_chunk::<2>() else {
            return false;
        };
        let scale = f16::from_le_bytes(*scale).to_f32();
        if !scale.is_finite() {
            return false;
        }
        decode(scale, body, block);
        bytes = rest;
    }
    true
}

/// `value` within ±`limit`; zero for NaN.
fn bounded(value: f32, limit: f32) -> f32 {
    if value.is_nan() {
        0.0
    } else {
        value.clamp(-limit, limit)
    }
}

/// A copy of a block, every value bounded, zeros after its end.
fn bounded_block(block: &[f32], limit: f32) -> [f32; BLOCK] {
    let mut copy = [0.0; BLOCK];
    for (copy, &value) in copy.iter_mut().zip(block) {
        *copy = bounded(value, limit);
    }
    copy
}

/// The smallest non-negative f16 that is not less than `value`.
///
/// Rounding a scale up rather than to nearest keeps the block's extreme representable, which matters where an f16 is
/// subnormal and its steps are coarse.
fn f16_at_least(value: f32) -> f16 {
    let nearest = f16::from_f32(value);
    if nearest.to_f32() < value && nearest < f16::MAX {
        f16::from_bits(nearest.to_bits() + 1)
    } else {
        nearest
    }
}

/// Appends a scale and one signed byte per value.
fn encode_q8(block: &[f32], out: &mut Vec<u8>) {
    let values = bounded_block(block, F16_MAX * 127.0);
    let peak = values.iter().fold(0.0_f32, |peak, v| peak.max(v.abs()));
    let scale = f16_at_least(peak / 127.0);
    let inverse = inverse(scale.to_f32());
    out.extend_from_slice(&scale.to_le_bytes());
    let mut quants = [0; BLOCK];
    for (quant, value) in quants.iter_mut().zip(&values) {
        // In range already: the clamp only guards against rounding in the division.
        let q = nearest(value * inverse).clamp(-127.0, 127.0);
        *quant = (q as i8).cast_unsigned();
    }
    out.extend_from_slice(&quants[..block.len()]);
}

/// Appends a scale and half a byte per value, -8 to 7 stored with 8 added, the first of a pair in the low half.
///
/// The scale is signed, so that the value furthest from zero can always be on the side with eight steps. Of a few
/// scales around the one that maps it to -8, the one with the least squared error is taken: cutting the extreme a
/// little often serves the other values better.
fn encode_q4(block: &[f32], out: &mut Vec<u8>) {
    let values = bounded_block(block, F16_MAX * 7.0);
    let extreme = values
        .iter()
        .fold(0.0_f32, |e, &v| if v.abs() > e.abs() { v } else { e });
    let mut best = (f32::INFINITY, f16::ZERO, [8_u8; BLOCK]);
    for divisor in [-8.0, -7.0, -7.5, -8.5, -9.0] {
        let scale = f16::from_f32(extreme / divisor);
        let inverse = inverse(scale.to_f32());
        let mut error = 0.0_f32;
        let mut quants = [8_u8; BLOCK];
        for (quant, value) in quants.iter_mut().zip(&values) {
            let q = nearest(value * inverse).clamp(-8.0, 7.0);
            let difference = value - q * scale.to_f32();
            error += difference * difference;
            *quant = (q + 8.0) as u8;
        }
        if error < best.0 {
            best = (error, scale, quants);
        }
    }
    let (_, scale, quants) = best;
    out.extend_from_slice(&scale.to_le_bytes());
    for pair in quants[..block.len()].chunks(2) {
        out.push(pair[0] | pair.get(1).map_or(8, |&second| second) << 4);
    }
}

/// The nearest integer, of two the even one; for numbers below 2^22. Where a processor is not known to have an instruction for
/// this, `round_ties_even` is a call for each value.
fn nearest(value: f32) -> f32 {
    /// With this added, a number has no bits left for a fraction.
    const INTEGERS: f32 = (3 << 22) as f32;
    (value + INTEGERS) - INTEGERS
}

/// `1 / scale`, and zero for zero.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { scale.recip() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(encoding: Encoding, values: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        encoding.encode(values, &mut bytes);
        assert_eq!(bytes.len(), encoding.bytes(values.len()));
        let mut decoded = vec![f32::NAN; values.len()];
        assert!(encoding.decode(&bytes, &mut decoded));
        decoded
    }

    #[test]
    fn nearest_rounds_as_round_ties_even_does() {
        for half in -100_000..100_000 {
            let value = half as f32 / 8.0;
            assert_eq!(nearest(value), value.round_ties_even());
        }
    }

    #[test]
    fn sizes_are_those_of_the_formats() {
        assert_eq!(Encoding::F32.bytes(2048), 8192);
        assert_eq!(Encoding::F16.bytes(2048), 4096);
        assert_eq!(Encoding::Q8.bytes(2048), 2176);
        assert_eq!(Encoding::Q4.bytes(2048), 1152);
        assert_eq!(Encoding::Q8.bytes(33), 37);
        assert_eq!(Encoding::Q4.bytes(33), 21);
    }

    #[test]
    fn what_is_not_finite_becomes_finite() {
        let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0, 3.4e38];
        for (encoding, limit) in [
            (Encoding::F32, f32::MAX),
            (Encoding::F16, F16_MAX),
            (Encoding::Q8, 127.0 * F16_MAX),
            (Encoding::Q4, 7.0 * F16_MAX),
        ] {
            let decoded = round_trip(encoding, &values);
            assert_eq!(decoded[0], 0.0, "{encoding:?}");
            for (decoded, limit) in decoded[1..3].iter().zip([limit, -limit]) {
                assert!(
                    (decoded / limit - 1.0).abs() < 0.15,
                    "{encoding:?} {decoded}"
                );
            }
            assert!(decoded.iter().all(|v| v.is_finite()), "{encoding:?}");
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let nan = f16::NAN.to_le_bytes();
        for encoding in [Encoding::F16, Encoding::Q8, Encoding::Q4] {
            let mut bytes = vec![0; encoding.bytes(32)];
            bytes[..2].copy_from_slice(&nan);
            assert!(!encoding.decode(&bytes, &mut [0.0; 32]), "{encoding:?}");
        }
        let bytes = f32::INFINITY.to_le_bytes();
        assert!(!Encoding::F32.decode(&bytes, &mut [0.0]));
    }

    #[test]
    fn q4_is_better_than_mapping_the_extreme_to_eight() {
        // A block in which a plain scale of extreme / -8 wastes precision: one outlier among small values.
        let mut values = [0.0_f32; 32];
        for (i, value) in values.iter_mut().enumerate() {
            *value = (i as f32 * 0.7).sin();
        }
        let plain = {
            let extreme = values
                .iter()
                .fold(0.0_f32, |e, &v| if v.abs() > e.abs() { v } else { e });
            let scale = f16::from_f32(extreme / -8.0).to_f32();
            values
                .iter()
                .map(|v| (v - (v / scale).round_ties_even().clamp(-8.0, 7.0) * scale).powi(2))
                .sum::<f32>()
        };
        let ours: f32 = round_trip(Encoding::Q4, &values)
            .iter()
            .zip(&values)
            .map(|(d, v)| (v - d).powi(2))
            .sum();
        assert!(ours < plain, "{ours} against {plain}");
    }

    proptest! {
        #[test]
        fn f32_is_exact(values in prop::collection::vec(-1e30_f32..1e30, 0..200)) {
            prop_assert_eq!(round_trip(Encoding::F32, &values), values);
        }

        #[test]
        fn errors_are_within_half_a_step(values in prop::collection::vec(-1000.0_f32..1000.0, 1..200)) {
            let decoded = round_trip(Encoding::F16, &values);
            for (d, v) in decoded.iter().zip(&values) {
                prop_assert!((d - v).abs() <= v.abs() / 2048.0 + 1e-7);
            }
            let decoded = round_trip(Encoding::Q8, &values);
            for (d, v) in decoded.chunks(BLOCK).zip(values.chunks(BLOCK)) {
                let peak = v.iter().fold(0.0_f32, |p, v| p.max(v.abs()));
                for (d, v) in d.iter().zip(v) {
                    prop_assert!((d - v).abs() <= peak / 127.0 * 0.502 + 1e-6, "{d} {v} {peak}");
                }
            }
        }

        #[test]
        fn any_values_come_out_finite(
            values in prop::collection::vec(any::<f32>(), 0..100),
            encoding in prop::sample::select(Encoding::ALL.to_vec()),
        ) {
            prop_assert!(round_trip(encoding, &values).iter().all(|v| v.is_finite()));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            count in 0..300_usize,
            encoding in prop::sample::select(Encoding::ALL.to_vec()),
        ) {
            let mut values = vec![0.0; count];
            if encoding.decode(&bytes, &mut values) {
                prop_assert!(values.iter().all(|v| v.is_finite()));
            }
        }
    }
}
