//! Putting a source's matrices in a package's form.

use std::path::Path;

use half::f16;

use super::source::Weights;
use crate::build::write_tensors;
use crate::error::ImportError;
use crate::layout::{Part, Spec, Storage};
use crate::manifest::FileRecord;
use crate::quantise::quantise;
use crate::tensors::{TensorError, f32_bytes};

/// The tensors of a weight file, in memory until it is written.
#[derive(Default)]
pub(super) struct WeightFile {
    tensors: Vec<(Part, Vec<u8>)>,
}

impl WeightFile {
    /// Adds a vector in f32.
    pub(super) fn vector(&mut self, name: &str, weights: &Weights) {
        let part = Part::vector(name, weights.values.len());
        self.tensors.push((part, f32_bytes(&weights.values)));
    }

    /// Adds a matrix, or a stack of them one after the other, in the form that `spec` asks for.
    pub(super) fn matrix(&mut self, spec: &Spec, weights: &Weights) -> Result<(), TensorError> {
        let parts = match spec.storage {
            Storage::F32 => vec![f32_bytes(&weights.values)],
            Storage::F16 => vec![f16_bytes(weights)?],
            Storage::Quantised { bits, block } => {
                let blocks = quantise(&weights.values, bits, block);
                vec![blocks.data, f32_bytes(&blocks.scales), blocks.zero_points]
            }
        };
        self.tensors.extend(spec.parts().into_iter().zip(parts));
        Ok(())
    }

    /// Adds a matrix cut into a stack of rows: the first `spec.rows` are the first matrix. Zeros fill the last.
    pub(super) fn rows(&mut self, spec: &Spec, mut weights: Weights) -> Result<(), TensorError> {
        weights.values.resize(spec.elements(), 0.0);
        self.matrix(spec, &weights)
    }

    /// Adds a matrix cut into a stack of columns: the first `spec.columns` of every row are the first matrix. Zeros fill
    /// the last.
    pub(super) fn columns(&mut self, spec: &Spec, mut weights: Weights) -> Result<(), TensorError> {
        let length = weights.values.len() / spec.rows;
        let mut stack = vec![0.0; spec.elements()];
        let matrices = stack.chunks_exact_mut(spec.rows * spec.columns);
        for (matrix, start) in matrices.zip((0..length).step_by(spec.columns)) {
            let end = length.min(start + spec.columns);
            let rows = matrix.chunks_exact_mut(spec.columns);
            for (row, whole) in rows.zip(weights.values.chunks_exact(length)) {
                row[..end - start].copy_from_slice(&whole[start..end]);
            }
        }
        weights.values = stack;
        self.matrix(spec, &weights)
    }

    /// Writes the file.
    pub(super) fn write(mut self, path: &Path) -> Result<FileRecord, ImportError> {
        write_tensors(path, &mut self.tensors, |_, bytes, out| {
            out.write_all(bytes)
        })
        .map_err(ImportError::io(path))
    }
}

fn f16_bytes(weights: &Weights) -> Result<Vec<u8>, TensorError> {
    let mut bytes = Vec::with_capacity(weights.values.len() * 2);
    for &value in &weights.values {
        let half = f16::from_f32(value);
        if half.is_infinite() {
            return Err(TensorError::F16Range {
                path: weights.path.clone(),
                tensor: weights.tensor.clone(),
                value,
            });
        }
        bytes.extend(half.to_le_bytes());
    }
    Ok(bytes)
}
