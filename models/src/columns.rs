use std::ops::Range;

use crate::{Matrix, Values};

/// Some columns of a [`Matrix`], copied: in a package they lie row by row.
#[derive(Debug)]
pub struct Columns {
    rows: usize,
    columns: usize,
    /// Bits and block size of quantised weights, whose scales and zero points the last two are.
    quantised: Option<(u8, usize)>,
    half: bool,
    data: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

impl Columns {
    /// The matrix that they are.
    #[must_use]
    pub fn matrix(&self) -> Matrix<'_> {
        let values = match self.quantised {
            Some((bits, block)) => Values::Quantised {
                bits,
                block,
                data: &self.data,
                scales: &self.scales,
                zero_points: &self.zero_points,
            },
            None if self.half => Values::F16(&self.data),
            None => Values::F32(&self.data),
        };
        Matrix {
            rows: self.rows,
            columns: self.columns,
            values,
        }
    }
}

impl Matrix<'_> {
    /// Some of its columns. Where these end within blocks of quantised weights, blocks are cut into smaller ones with the same scale.
    ///
    /// # Panics
    ///
    /// If there are no such columns, or an end is no multiple of 16.
    #[must_use]
    pub fn columns(&self, range: Range<usize>) -> Columns {
        assert!(range.start < range.end && range.end <= self.columns);
        assert!(range.start.is_multiple_of(16) && range.end.is_multiple_of(16));
        let mut columns = Columns {
            rows: self.rows,
            columns: range.len(),
            quantised: None,
            half: matches!(self.values, Values::F16(_)),
            data: Vec::new(),
            scales: Vec::new(),
            zero_points: Vec::new(),
        };
        match self.values {
            Values::F32(bytes) | Values::F16(bytes) => columns.data = self.cut(bytes, &range),
            Values::Quantised {
                bits,
                block,
                data,
                scales,
                zero_points,
            } => {
                let smaller = [range.start, range.end].into_iter().fold(block, gcd);
                let blocks = range.start / smaller..range.end / smaller;
                let per_row = self.columns / block;
                for row in 0..self.rows {
                    for part in blocks.clone() {
                        let index = row * per_row + part * smaller / block;
                        columns
                            .scales
                            .extend_from_slice(&scales[4 * index..4 * index + 4]);
                        columns.zero_points.push(zero_points[index]);
                    }
                }
                columns.data = self.cut(data, &range);
                columns.quantised = Some((bits, smaller));
            }
        }
        columns
    }

    /// Of bytes that lie row by row, those of some columns.
    fn cut(&self, bytes: &[u8], range: &Range<usize>) -> Vec<u8> {
        let row = bytes.len() / self.rows;
        let at = |column: usize| column * row / self.columns;
        let rows = bytes.chunks_exact(row);
        rows.flat_map(|row| &row[at(range.start)..at(range.end)])
            .copied()
            .collect()
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of 3 rows and 64 columns in blocks of 32.
    #[test]
    fn columns_are_those_of_the_matrix() {
        let bytes = |count: usize| (0..count).map(|i| (i * 37 % 251) as u8).collect::<Vec<_>>();
        let scales: Vec<u8> = (0..6)
            .flat_map(|i| (i as f32 + 0.5).to_le_bytes())
            .collect();
        let zero_points = [1, 2, 3, 4, 5, 6];
        for bits in [4, 8] {
            let data = bytes(3 * 64 * usize::from(bits) / 8);
            let quantised = Values::Quantised {
                bits,
                block: 32,
                data: &data,
                scales: &scales,
                zero_points: &zero_points,
            };
            check(quantised);
        }
        let floats: Vec<u8> = (0..192).flat_map(|i| (i as f32).to_le_bytes()).collect();
        check(Values::F32(&floats));
        check(Values::F16(&bytes(384)));
    }

    fn check(values: Values<'_>) {
        let matrix = Matrix {
            rows: 3,
            columns: 64,
            values,
        };
        let whole = matrix.dequantise();
        for range in [0..64, 0..32, 32..64, 16..64, 48..64, 16..32] {
            let columns = matrix.columns(range.clone());
            let expected = whole.chunks_exact(64).flat_map(|row| &row[range.clone()]);
            let bits = |values: &mut dyn Iterator<Item = &f32>| -> Vec<u32> {
                values.map(|v| v.to_bits()).collect()
            };
            let got = columns.matrix().dequantise();
            assert_eq!(bits(&mut got.iter()), bits(&mut expected.into_iter()));
        }
    }
}
