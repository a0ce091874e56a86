//! Quantising: numbers to small integers with a scale and a zero point per block.

use std::num::NonZero;
use std::thread;

/// Fractions of a block's range that are tried for 4 bits: a narrower range clips the largest weights and represents
/// all others more finely.
const SHRINK: [f32; 8] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65];

/// Blocks given to one thread at least; fewer are not worth starting one.
const BLOCKS_PER_THREAD: usize = 256;

/// Blocks of quantised numbers: see [`Values::Quantised`](crate::Values::Quantised).
#[derive(Debug, PartialEq)]
pub(crate) struct Blocks {
    pub(crate) data: Vec<u8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) zero_points: Vec<u8>,
}

/// Quantises finite numbers in blocks of `block`, which is a multiple of 16 and divides their count.
///
/// Each block gets the scale with the least squared error of those tried. The range always includes zero, so that a
/// zero point exists that fits in the same bits. The result does not depend on how many threads there are.
pub(crate) fn quantise(values: &[f32], bits: u8, block: usize) -> Blocks {
    let per_block = block * usize::from(bits) / 8;
    let count = values.len() / block;
    let mut blocks = Blocks {
        data: vec![0; count * per_block],
        scales: vec![0.0; count],
        zero_points: vec![0; count],
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = count.div_ceil(threads).max(BLOCKS_PER_THREAD);
    thread::scope(|scope| {
        let shares = values
            .chunks(share * block)
            .zip(blocks.data.chunks_mut(share * per_block))
            .zip(blocks.scales.chunks_mut(share))
            .zip(blocks.zero_points.chunks_mut(share));
        for (((values, data), scales), zero_points) in shares {
            let work = move || {
                let each = values
                    .chunks_exact(block)
                    .zip(data.chunks_exact_mut(per_block))
                    .zip(scales.iter_mut().zip(zero_points));
                for ((values, data), (scale, zero_point)) in each {
                    (*scale, *zero_point) = quantise_block(values, bits, data);
                }
            };
            if count <= share {
                work();
            } else {
                scope.spawn(work);
            }
        }
    });
    blocks
}

/// Quantises one block into `data`; gives its scale and zero point.
fn quantise_block(values: &[f32], bits: u8, data: &mut [u8]) -> (f32, u8) {
    let levels = f32::from(if bits == 4 { 15u8 } else { 255 });
    let low = values.iter().copied().fold(0.0, f32::min);
    let high = values.iter().copied().fold(0.0, f32::max);
    // Divided first, because the difference of two large numbers may be infinite.
    let full = high / levels - low / levels;
    if full < f32::MIN_POSITIVE {
        // Nothing but zeros, or numbers too small for a scale that can be divided by.
        return (1.0, 0);
    }
    let zero = (-low / full).round().clamp(0.0, levels);
    let mut best = (f32::INFINITY, full);
    let mut consider = |scale: f32| {
        let fit = Fit::of(values, scale, zero, levels);
        if fit.error < best.0 {
            best = (fit.error, scale);
        }
        fit
    };
    for shrink in if bits == 4 { &SHRINK[..] } else { &SHRINK[..1] } {
        let refined = consider(full * shrink).scale();
        if refined.is_normal() && refined > 0.0 {
            consider(refined);
        }
    }
    let (_, scale) = best;
    let inverse = scale.recip();
    let code = |value: f32| code(value, inverse, zero, levels) as u8;
    if bits == 4 {
        for (byte, pair) in data.iter_mut().zip(values.as_chunks::<2>().0) {
            *byte = code(pair[0]) | code(pair[1]) << 4;
        }
    } else {
        for (byte, value) in data.iter_mut().zip(values) {
            *byte = code(*value);
        }
    }
    (scale, zero as u8)
}

/// The nearest of the integers from 0 to `levels`, as a float.
#[inline]
fn code(value: f32, inverse: f32, zero: f32, levels: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, without the function call that `round` is on
    // processors older than SSE 4.1, for which we compile.
    const ROUND: f32 = 12_582_912.0;
    ((value * inverse + zero).max(0.0).min(levels) + ROUND) - ROUND
}

/// How well a scale fits a block.
struct Fit {
    /// Sum of squared differences.
    error: f32,
    /// Sum of value times code, and of code times code, codes counted from the zero point.
    value_code: f32,
    code_code: f32,
}

impl Fit {
    fn of(values: &[f32], scale: f32, zero: f32, levels: f32) -> Self {
        // Sixteen sums side by side, so that the compiler can use vector registers without changing the result.
        const LANES: usize = 16;
        let inverse = scale.recip();
        let mut error = [0.0; LANES];
        let mut value_code = [0.0; LANES];
        let mut code_code = [0.0; LANES];
        for chunk in values.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let value = chunk[lane];
                let code = code(value, inverse, zero, levels) - zero;
                let difference = value - code * scale;
                error[lane] += difference * difference;
                value_code[lane] += value * code;
                code_code[lane] += code * code;
            }
        }
        Self {
            error: error.iter().sum(),
            value_code: value_code.iter().sum(),
            code_code: code_code.iter().sum(),
        }
    }

    /// The scale with the least error for the same codes.
    fn scale(&self) -> f32 {
        self.value_code / self.code_code
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::matrix::{Matrix, Values};
    use crate::tensors::f32_bytes;

    fn there_and_back(values: &[f32], bits: u8, block: usize) -> Vec<f32> {
        let blocks = quantise(values, bits, block);
        Matrix {
            rows: 1,
            columns: values.len(),
            values: Values::Quantised {
                bits,
                block,
                data: &blocks.data,
                scales: &f32_bytes(&blocks.scales),
                zero_points: &blocks.zero_points,
            },
        }
        .dequantise()
    }

    fn squared_error(left: &[f32], right: &[f32]) -> f64 {
        let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
        left.iter().zip(right).map(square).sum()
    }

    #[test]
    fn integers_within_the_levels_are_exact() {
        let values = (0..32).map(|i| (i % 16) as f32 - 5.0).collect::<Vec<_>>();
        assert_eq!(there_and_back(&values, 4, 16), values);
        let values = (0..512)
            .map(|i| (i % 256) as f32 - 100.0)
            .collect::<Vec<_>>();
        assert_eq!(there_and_back(&values, 8, 256), values);
    }

    #[test]
    fn low_half_of_a_byte_comes_first() {
        let values = (0..16).map(|i| i as f32).collect::<Vec<_>>();
        let blocks = quantise(&values, 4, 16);
        assert_eq!(
            blocks.data,
            [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]
        );
        assert_eq!(blocks.scales, [1.0]);
        assert_eq!(blocks.zero_points, [0]);
    }

    #[test]
    fn extremes_stay_finite() {
        for extreme in [f32::MAX, f32::MIN_POSITIVE, 1e-45, 0.0] {
            let mut values = vec![0.0; 32];
            values[3] = extreme;
            values[20] = -extreme;
            for bits in [4, 8] {
                let blocks = quantise(&values, bits, 16);
                assert!(
                    blocks
                        .scales
                        .iter()
                        .all(|scale| scale.is_finite() && *scale > 0.0),
                    "{extreme} {blocks:?}"
                );
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let values = (0..16 * BLOCKS_PER_THREAD * 5 + 16)
            .map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0)
            .collect::<Vec<_>>();
        let whole = quantise(&values, 4, 16);
        let mut pieces = Blocks {
            data: vec![],
            scales: vec![],
            zero_points: vec![],
        };
        for block in values.chunks(16) {
            let piece = quantise(block, 4, 16);
            pieces.data.extend(piece.data);
            pieces.scales.extend(piece.scales);
            pieces.zero_points.extend(piece.zero_points);
        }
        assert_eq!(whole, pieces);
    }

    proptest! {
        /// Half a step from rounding the value and half from rounding the zero point, which plain rounding over the
        /// full range has at most, bounds the search too, because the full range is one of those it tries.
        #[test]
        fn error_is_within_a_step(
            values in prop::collection::vec(-1e3f32..1e3, 64),
            bits in prop::sample::select(vec![4u8, 8]),
            block in prop::sample::select(vec![16usize, 32, 64]),
        ) {
            let back = there_and_back(&values, bits, block);
            for (values, back) in values.chunks(block).zip(back.chunks(block)) {
                let low = values.iter().copied().fold(0.0, f32::min);
                let high = values.iter().copied().fold(0.0, f32::max);
                let step = f64::from(high - low) / f64::from((1u32 << bits) - 1);
                let bound = step * step * block as f64 * 1.0001;
                prop_assert!(squared_error(values, back) <= bound);
            }
        }

        #[test]
        fn the_search_never_loses_to_the_full_range(values in prop::collection::vec(-1f32..1.0, 128)) {
            let searched = squared_error(&values, &there_and_back(&values, 4, 128));
            let low = values.iter().copied().fold(0.0, f32::min);
            let high = values.iter().copied().fold(0.0, f32::max);
            let scale = high / 15.0 - low / 15.0;
            let zero = (-low / scale).round();
            let plain = values
                .iter()
                .map(|value| (code(*value, scale.recip(), zero, 15.0) - zero) * scale)
                .collect::<Vec<_>>();
            prop_assert!(searched <= squared_error(&values, &plain) * 1.0001);
        }
    }
}
