use std::fmt::Debug;
use std::slice;

use halo_models::{Matrix, Package, Values};
use ort::memory::Allocator;
use ort::value::{PrimitiveTensorElementType, Tensor};

use crate::EngineError;
use crate::error::Context;

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

/// The values, in memory that ONNX Runtime owns: it takes them as they are, without a copy.
pub(crate) enum Stored {
    /// Transposed, `[columns, rows]`: `MatMul` takes its right side so.
    Float(Tensor<f32>),
    /// As `MatMulNBits` takes 4-bit weights: `data` is `[rows, planes * columns / block, block / 2]`, scales
    /// `[rows, planes * columns / block]`, zero points the same, two to a byte, each row padded to whole bytes.
    Quantised {
        block: usize,
        /// 8-bit weights are two planes of 4 bits, the high halves and the low ones, whose products are added:
        /// `(q - z) s = (q_high - z_high) 16 s + (q_low - z_low) s`, exactly. `MatMulNBits` has 8-bit weights too, but its
        /// kernel for them took five times as long as that for 4 bits (x86-64, one row), and this takes twice as long.
        planes: usize,
        data: Tensor<u8>,
        scales: Tensor<f32>,
        zero_points: Tensor<u8>,
    },
}

/// A row of the result: the same row of each of these matrices, side by side.
type Row<'a> = (&'a [Matrix<'a>], usize);

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
        let sources = matrices
            .iter()
            .flat_map(|matrix| (0..matrix.rows).map(move |row| (slice::from_ref(matrix), row)));
        let rows = matrices.iter().map(|m| m.rows).sum();
        Self::assemble(matrices, [rows, columns], sources)
    }

    /// `matrices` side by side. They have the same rows and encoding.
    pub(crate) fn join(matrices: &[Matrix<'_>]) -> Result<Self, EngineError> {
        let rows = matrices.first().map_or(0, |m| m.rows);
        for matrix in matrices {
            same("rows of matrices put side by side", rows, matrix.rows)?;
        }
        let sources = (0..rows).map(|row| (matrices, row));
        let columns = matrices.iter().map(|m| m.columns).sum();
        Self::assemble(matrices, [rows, columns], sources)
    }

    fn assemble<'a>(
        matrices: &'a [Matrix<'a>],
        [rows, columns]: [usize; 2],
        sources: impl Iterator<Item = Row<'a>>,
    ) -> Result<Self, EngineError> {
        let (bits, block) = matrices.first().map_or((32, 1), encoding);
        for matrix in matrices {
            let (b, k) = encoding(matrix);
            same("bits of matrices put together", bits, b)?;
            same("block size of matrices put together", block, k)?;
        }
        let stored = match bits {
            32 => transposed([rows, columns], sources)?,
            _ => planes([rows, columns], bits, block, sources)?,
        };
        Ok(Self {
            rows,
            columns,
            stored,
        })
    }
}

/// The matrices of a layer's groups: the gates and after them the ups, to be [stacked](Weights::stack), and the downs, to be
/// [joined](Weights::join).
pub(crate) fn feed_forward<'a>(
    package: &'a Package,
    layer: usize,
    groups: impl Iterator<Item = usize> + Clone,
) -> (Vec<Matrix<'a>>, Vec<Matrix<'a>>) {
    let groups = groups.map(|group| package.group(layer, group));
    let gates = groups.clone().map(|group| group.gate);
    let ups = groups.clone().map(|group| group.up);
    (
        gates.chain(ups).collect(),
        groups.map(|group| group.down).collect(),
    )
}

/// Whether two matrices can be [stacked](Weights::stack).
pub(crate) fn alike(a: &Matrix<'_>, b: &Matrix<'_>) -> bool {
    a.columns == b.columns && encoding(a) == encoding(b)
}

/// Bits and block size; floats of either size count as 32 bits, since that is what becomes of them.
fn encoding(matrix: &Matrix<'_>) -> (usize, usize) {
    match matrix.values {
        Values::F32(_) | Values::F16(_) => (32, 1),
        Values::Quantised { bits, block, .. } => (bits.into(), block),
    }
}

fn transposed<'a>(
    [rows, columns]: [usize; 2],
    sources: impl Iterator<Item = Row<'a>>,
) -> Result<Stored, EngineError> {
    let mut target = tensor::<f32>(&[columns, rows])?;
    let values = target.extract_tensor_mut().1;
    let mut line = vec![0f32; columns];
    for (row, (parts, index)) in sources.enumerate() {
        let mut rest = line.as_mut_slice();
        for part in parts {
            let (own, others) = rest.split_at_mut(part.columns);
            part.dequantise_row(index, own);
            rest = others;
        }
        for (column, value) in line.iter().enumerate() {
            values[column * rows + row] = *value;
        }
    }
    Ok(Stored::Float(target))
}

fn planes<'a>(
    [rows, columns]: [usize; 2],
    bits: usize,
    block: usize,
    sources: impl Iterator<Item = Row<'a>>,
) -> Result<Stored, EngineError> {
    let planes = bits / 4;
    let blocks = planes * columns / block;
    let mut data = tensor::<u8>(&[rows, blocks, block / 2])?;
    let mut scales = tensor::<f32>(&[rows, blocks])?;
    let mut zero_points = tensor::<u8>(&[rows, blocks.div_ceil(2)])?;
    let mut data_rest = data.extract_tensor_mut().1;
    let mut scales_rest = scales.extract_tensor_mut().1;
    let mut zeros_rest = zero_points.extract_tensor_mut().1;
    let mut zeros = Vec::with_capacity(blocks);
    for (parts, row) in sources {
        zeros.clear();
        // From the high bits to the low ones.
        for shift in (0..planes).rev().map(|plane| 4 * plane) {
            for part in parts {
                let Values::Quantised {
                    data,
                    scales,
                    zero_points,
                    ..
                } = part.values
                else {
                    continue;
                };
                let n = part.columns / block;
                let data = &data[row * n * block * bits / 8..(row + 1) * n * block * bits / 8];
                let target = take(&mut data_rest, n * block / 2);
                match bits {
                    4 => target.copy_from_slice(data),
                    _ => {
                        for (target, [first, second]) in target.iter_mut().zip(data.as_chunks().0) {
                            *target = ((first >> shift) & 15) | (((second >> shift) & 15) << 4);
                        }
                    }
                }
                let factor = f32::from(1u8 << shift);
                let scales = scales[row * n * 4..(row + 1) * n * 4].as_chunks().0;
                for (target, scale) in take(&mut scales_rest, n).iter_mut().zip(scales) {
                    *target = f32::from_le_bytes(*scale) * factor;
                }
                let zero_points = &zero_points[row * n..(row + 1) * n];
                zeros.extend(zero_points.iter().map(|zero| (zero >> shift) & 15));
            }
        }
        for (target, pair) in take(&mut zeros_rest, blocks.div_ceil(2))
            .iter_mut()
            .zip(zeros.chunks(2))
        {
            *target = pair[0] | (pair.get(1).unwrap_or(&0) << 4);
        }
    }
    Ok(Stored::Quantised {
        block,
        planes,
        data,
        scales,
        zero_points,
    })
}

/// Cuts the first `count` elements off what is left of a buffer.
fn take<'a, T>(rest: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (taken, left) = std::mem::take(rest).split_at_mut(count);
    *rest = left;
    taken
}

fn tensor<T>(shape: &[usize]) -> Result<Tensor<T>, EngineError>
where
    T: PrimitiveTensorElementType + Debug + Clone + 'static,
{
    Tensor::new(&Allocator::default(), shape.to_vec())
        .context(|| format!("the memory for weights of shape {shape:?}"))
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
