//! What was learnt by running a model: named arrays of numbers.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::error::PackageError;
use crate::tensors::{TensorError, TensorFile, f32_bytes, f32_values};

/// What was learnt by running a model, such as the mean importance of every group or the parameters of a predictor.
///
/// A package only stores it; names and shapes are a matter between those who write it and those who read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// The arrays by name.
    pub arrays: BTreeMap<String, Array>,
}

/// An array of f32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Lengths of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// As many values as the dimensions' product; all finite.
    pub values: Vec<f32>,
}

impl Calibration {
    /// The file's content. The same calibration always gives the same bytes.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, PackageError> {
        let error = |array: &str, reason: String| PackageError::Calibration {
            array: array.into(),
            reason,
        };
        let mut parts = Vec::with_capacity(self.arrays.len());
        for (name, array) in &self.arrays {
            // The one name that safetensors keeps for itself.
            if name.is_empty() || name == "__metadata__" {
                return Err(error(name, "not a name an array can have".into()));
            }
            if let Some(index) = array.values.iter().position(|value| !value.is_finite()) {
                return Err(error(name, format!("value {index} is not a finite number")));
            }
            parts.push((name, &array.shape, f32_bytes(&array.values)));
        }
        let views = parts
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).map_err(|_| {
                    error(
                        name,
                        format!("{} values do not fill shape {shape:?}", bytes.len() / 4),
                    )
                })?;
                Ok((name.as_str(), view))
            })
            .collect::<Result<Vec<_>, PackageError>>()?;
        safetensors::serialize(views, None).map_err(|source| error("*", source.to_string()))
    }

    /// Reads a file back.
    pub(crate) fn read(path: &Path) -> Result<Self, PackageError> {
        let file = TensorFile::open(path)?;
        let mut arrays = BTreeMap::new();
        for (name, tensor) in file.tensors() {
            file.expect(name, &[Dtype::F32], &tensor.shape)?;
            let values = f32_values(&file.bytes()[tensor.range.clone()]);
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                let (path, tensor) = (path.into(), name.into());
                return Err(TensorError::NotFinite {
                    path,
                    tensor,
                    index,
                }
                .into());
            }
            let shape = tensor.shape.clone();
            arrays.insert(name.to_owned(), Array { shape, values });
        }
        Ok(Self { arrays })
    }
}
