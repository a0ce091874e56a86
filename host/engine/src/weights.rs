use halo_models::{Matrix, Values};

use crate::EngineError;

/// One weight matrix as ONNX Runtime takes it, put together from one or more matrices of a package.
///
/// A node computes all its groups of a layer in one product, since many small products are slower than one: the groups'
/// rows of gate and up are put below one another, their columns of down side by side.
pub(crate) struct Weights {
    /// Outputs of the product.
    pub(crate) rows: usize,
    /// Inputs of the product.
    pub(crate) columns: usize,
    pub(crate) stored: Stored,
}

pub(crate) enum Stored {
    /// Transposed, `[columns, rows]`: `MatMul` takes its right side so.
    Float(Vec<f32>),
    /// As `MatMulNBits` takes it: `data` is `[rows, columns / block, block * bits / 8]`, scales `[rows, columns / block]`,
    /// zero points the same, packed like the data where they have four bits, each row padded to whole bytes.
    Quantised {
        bits: usize,
        block: usize,
        data: Vec<u8>,
        scales: Vec<f32>,
        zero_points: Vec<u8>,
    },
}

impl Weights {
    /// `matrices` below one another. They have the same columns and encoding.
    pub(crate) fn stack(matrices: &[Matrix<'_>]) -> Result<Self, EngineError> {
        let columns = matrices.first().map_or(0, |m| m.columns);
        for matrix in matrices {
            same(
                "columns of matrices put below one another",
                columns,
                matrix.columns,
            )?;
        }
        Self::assemble(
            matrices.iter().map(|m| m.rows).sum(),
            columns,
            matrices,
            |rows_of| {
                matrices
                    .iter()
                    .enumerate()
                    .flat_map(|(m, matrix)| (0..matrix.rows).map(move |r| (m, r)))
                    .for_each(|(m, r)| rows_of(&[(m, r)]));
            },
        )
    }

    /// `matrices` side by side. They have the same rows and encoding.
    pub(crate) fn join(matrices: &[Matrix<'_>]) -> Result<Self, EngineError> {
        let rows = matrices.first().map_or(0, |m| m.rows);
        for matrix in matrices {
            same("rows of matrices put side by side", rows, matrix.rows)?;
        }
        Self::assemble(
            rows,
            matrices.iter().map(|m| m.columns).sum(),
            matrices,
            |rows_of| {
                let mut parts = Vec::with_capacity(matrices.len());
                for r in 0..rows {
                    parts.clear();
                    parts.extend((0..matrices.len()).map(|m| (m, r)));
                    rows_of(&parts);
                }
            },
        )
    }

    /// Puts the result's rows together, each from the rows of one or more matrices that `visit` names in order.
    fn assemble(
        rows: usize,
        columns: usize,
        matrices: &[Matrix<'_>],
        visit: impl FnOnce(&mut dyn FnMut(&[(usize, usize)])),
    ) -> Result<Self, EngineError> {
        let Some(first) = matrices.first() else {
            return Ok(Self {
                rows,
                columns,
                stored: Stored::Float(Vec::new()),
            });
        };
        let Values::Quantised { bits, block, .. } = first.values else {
            let floats: Vec<Vec<f32>> = matrices.iter().map(Matrix::dequantise).collect();
            let mut transposed = vec![0f32; rows * columns];
            let mut row = 0;
            visit(&mut |parts| {
                let values = parts.iter().flat_map(|&(m, r)| {
                    &floats[m][r * matrices[m].columns..(r + 1) * matrices[m].columns]
                });
                for (column, value) in values.enumerate() {
                    transposed[column * rows + row] = *value;
                }
                row += 1;
            });
            return Ok(Self {
                rows,
                columns,
                stored: Stored::Float(transposed),
            });
        };
        let mut sources = Vec::with_capacity(matrices.len());
        for matrix in matrices {
            let Values::Quantised {
                bits: b,
                block: k,
                data,
                scales,
                zero_points,
            } = &matrix.values
            else {
                return Err(EngineError::Mismatch {
                    what: "bits of matrices put together",
                    expected: usize::from(bits),
                    got: 32,
                });
            };
            same(
                "bits of matrices put together",
                usize::from(bits),
                usize::from(*b),
            )?;
            same("block size of matrices put together", block, *k)?;
            sources.push((matrix.columns / block, *data, *scales, *zero_points));
        }
        let bits = usize::from(bits);
        let blocks = columns / block;
        let bytes = block * bits / 8;
        let mut data = Vec::with_capacity(rows * blocks * bytes);
        let mut scales = Vec::with_capacity(rows * blocks);
        let mut zero_points = Vec::with_capacity(rows * (blocks * bits).div_ceil(8));
        let mut zeros = Vec::with_capacity(blocks);
        visit(&mut |parts| {
            zeros.clear();
            for &(m, r) in parts {
                let (n, d, s, z) = sources[m];
                data.extend_from_slice(&d[r * n * bytes..(r + 1) * n * bytes]);
                scales.extend(
                    s[r * n * 4..(r + 1) * n * 4]
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b)),
                );
                zeros.extend_from_slice(&z[r * n..(r + 1) * n]);
            }
            match bits {
                4 => zero_points.extend(
                    zeros
                        .chunks(2)
                        .map(|pair| (pair[0] & 15) | (pair.get(1).map_or(0, |z| z & 15) << 4)),
                ),
                _ => zero_points.extend_from_slice(&zeros),
            }
        });
        Ok(Self {
            rows,
            columns,
            stored: Stored::Quantised {
                bits,
                block,
                data,
                scales,
                zero_points,
            },
        })
    }
}

fn same(what: &'static str, expected: usize, got: usize) -> Result<(), EngineError> {
    if expected == got {
        Ok(())
    } else {
        Err(EngineError::Mismatch {
            what,
            expected,
            got,
        })
    }
}
