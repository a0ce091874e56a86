//! Writing one weight file of a package.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::source::Weights;
use crate::error::ImportError;
use crate::layout::{Part, Spec, Storage};
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
        let part = Part {
            name: name.into(),
            dtype: Dtype::F32,
            shape: vec![weights.values.len()],
        };
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

    /// Adds a matrix cut into stacks of columns: the first `spec.columns` of every row are the first matrix.
    pub(super) fn columns(&mut self, spec: &Spec, mut weights: Weights) -> Result<(), TensorError> {
        let row = spec.columns * spec.stack.unwrap_or(1);
        let stacks = (0..row).step_by(spec.columns);
        weights.values = stacks
            .flat_map(|start| {
                weights
                    .values
                    .chunks_exact(row)
                    .map(move |row| &row[start..start + spec.columns])
            })
            .collect::<Vec<_>>()
            .concat();
        self.matrix(spec, &weights)
    }

    /// Writes the file. The same tensors always give the same bytes.
    pub(super) fn write(&self, path: &Path) -> Result<(), ImportError> {
        // The library writes a private temporary file and renames it; the package should have the permissions that
        // the user's umask asks for, as any new file has.
        let permissions = File::create(path).and_then(|file| Ok(file.metadata()?.permissions()));
        let permissions = permissions.map_err(ImportError::io(path))?;
        let views = self.tensors.iter().map(|(part, bytes)| {
            let view = TensorView::new(part.dtype, part.shape.clone(), bytes)?;
            Ok((&part.name, view))
        });
        views
            .collect::<Result<Vec<_>, _>>()
            .and_then(|views| safetensors::serialize_to_file(views, None, path))
            .map_err(|source| ImportError::io(path)(io::Error::other(source)))?;
        fs::set_permissions(path, permissions).map_err(ImportError::io(path))
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
