//! Matrices as they lie in a package.

use std::ops::Range;

/// A matrix of a package, borrowed from its mapped file.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Outputs: N of a product with K inputs.
    pub rows: usize,
    /// Inputs: K.
    pub columns: usize,
    /// The weights, row after row.
    pub values: Values<'a>,
}

/// The weights of a [`Matrix`], as little-endian bytes without any promise about their alignment.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// `rows * columns` IEEE single-precision numbers.
    F32(&'a [u8]),
    /// `rows * columns` IEEE half-precision numbers.
    F16(&'a [u8]),
    /// What ONNX Runtime's `MatMulNBits` takes: a weight is `(q - zero_point) * scale`, with one scale and one zero
    /// point for each block of a row. `columns` is a multiple of `block`, so a row has `columns / block` blocks.
    Quantised {
        /// Bits of one weight: 4 or 8.
        bits: u8,
        /// Weights in a block: a power of two, at least 16.
        block: usize,
        /// `[rows, columns / block, block * bits / 8]` bytes; 4-bit weights two to a byte, the first in the low half.
        data: &'a [u8],
        /// `[rows, columns / block]` f32.
        scales: &'a [u8],
        /// `[rows, columns / block]`, one byte each whatever `bits` is, below `2^bits`.
        zero_points: &'a [u8],
    },
}

impl<'a> Matrix<'a> {
    /// The matrix in f32, row-major, `rows * columns` values.
    #[must_use]
    pub fn dequantise(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.columns];
        for (row, values) in out.chunks_exact_mut(self.columns).enumerate() {
            self.dequantise_row(row, values);
        }
        out
    }

    /// Writes one row in f32 to `out`.
    ///
    /// # Panics
    ///
    /// If there is no such row or `out` is not `columns` long.
    // Inlined, so that a caller that is compiled for wider vectors gets this with them.
    #[inline(always)]
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "a row has one value per column");
        let (start, end) = (row * self.columns, (row + 1) * self.columns);
        match self.values {
            Values::F32(bytes) => {
                for (value, bytes) in out.iter_mut().zip(bytes[start * 4..end * 4].as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Values::F16(bytes) => {
                for (value, bytes) in out.iter_mut().zip(bytes[start * 2..end * 2].as_chunks().0) {
                    *value = half::f16::from_le_bytes(*bytes).to_f32();
                }
            }
            Values::Quantised {
                bits,
                block,
                data,
                scales,
                zero_points,
            } => {
                let per_block = block * usize::from(bits) / 8;
                let first = start / block;
                for (index, values) in out.chunks_exact_mut(block).enumerate() {
                    let index = first + index;
                    let packed = &data[index * per_block..(index + 1) * per_block];
                    let scale = f32::from_le_bytes(scales.as_chunks().0[index]);
                    let zero = f32::from(zero_points[index]);
                    let weight = |q: u8| (f32::from(q) - zero) * scale;
                    if bits == 4 {
                        for (pair, q) in values.as_chunks_mut().0.iter_mut().zip(packed) {
                            *pair = [weight(q & 15), weight(q >> 4)];
                        }
                    } else {
                        for (value, q) in values.iter_mut().zip(packed) {
                            *value = weight(*q);
                        }
                    }
                }
            }
        }
    }

    /// Some of its rows.
    ///
    /// # Panics
    ///
    /// If there are no such rows.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let count = self.rows;
        let part = |bytes: &'a [u8]| {
            let row = bytes.len() / count;
            &bytes[rows.start * row..rows.end * row]
        };
        let values = match self.values {
            Values::F32(bytes) => Values::F32(part(bytes)),
            Values::F16(bytes) => Values::F16(part(bytes)),
            Values::Quantised {
                bits,
                block,
                data,
                scales,
                zero_points,
            } => Values::Quantised {
                bits,
                block,
                data: part(data),
                scales: part(scales),
                zero_points: part(zero_points),
            },
        };
        Self {
            rows: rows.len(),
            values,
            ..*self
        }
    }

    /// Bytes the matrix takes in its file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = match self.values {
            Values::F32(bytes) | Values::F16(bytes) => bytes.len(),
            Values::Quantised {
                data,
                scales,
                zero_points,
                ..
            } => data.len() + scales.len() + zero_points.len(),
        };
        bytes as u64
    }
}
