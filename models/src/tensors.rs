//! Safetensors files, mapped into memory, whose headers have been checked.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::mapped::Mapped;

/// What is wrong with a tensor file or with a tensor in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The header is not one, or does not fit the file.
    #[error("{} is not a whole safetensors file: {source}; copy or download it again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What the header lacks.
        source: SafeTensorError,
    },
    /// A tensor that must be there is not.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another element type.
    #[error("{}: tensor `{tensor}` is {found}, but must be {expected}", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The types it may have.
        expected: String,
        /// The type it has.
        found: String,
    },
    /// A tensor has another shape.
    #[error("{}: tensor `{tensor}` has shape {found:?}, but must have {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape it must have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A tensor holds a NaN or an infinity.
    #[error("{}: tensor `{tensor}` holds a value that is not a finite number, at {index}; the file is damaged or training diverged", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which element, counted through the flattened tensor.
        index: usize,
    },
    /// A zero point is larger than the weights it belongs to can be.
    #[error("{}: tensor `{tensor}` holds a zero point above {limit}, at {index}; import the model again", path.display())]
    ZeroPoint {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which element, counted through the flattened tensor.
        index: usize,
        /// The largest that the weights' bits can express.
        limit: u8,
    },
    /// A value does not fit the format it should be stored in.
    #[error("{}: tensor `{tensor}` holds {value}, which f16 cannot represent; import it with f32", path.display())]
    F16Range {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
    },
}

/// A safetensors file, mapped into memory.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    map: Mapped,
    tensors: HashMap<String, Tensor>,
}

/// A tensor of a [`TensorFile`]: the header has been found to agree with the file, so the range lies inside it and is
/// as long as type and shape say.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
}

impl TensorFile {
    /// Maps a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, TensorError> {
        let map = Mapped::open(path).map_err(|source| TensorError::Open {
            path: path.into(),
            source,
        })?;
        let header = |source| TensorError::Header {
            path: path.into(),
            source,
        };
        let (length, metadata) = SafeTensors::read_metadata(&map).map_err(header)?;
        let start = size_of::<u64>() + length;
        let mut tensors = HashMap::new();
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let range = start + from..start + to;
            if range.start > range.end || range.end > map.len() {
                return Err(header(SafeTensorError::InvalidOffset(name)));
            }
            let (dtype, shape) = (info.dtype, info.shape.clone());
            tensors.insert(
                name,
                Tensor {
                    dtype,
                    shape,
                    range,
                },
            );
        }
        Ok(Self {
            path: path.into(),
            map,
            tensors,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn map(&self) -> &Mapped {
        &self.map
    }

    /// All tensors, in no order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// A tensor of one of several types and of one shape.
    pub(crate) fn expect(
        &self,
        name: &str,
        dtypes: &[Dtype],
        shape: &[usize],
    ) -> Result<&Tensor, TensorError> {
        let (path, tensor) = (self.path.clone(), name.to_owned());
        let Some(found) = self.tensors.get(name) else {
            return Err(TensorError::Missing { path, tensor });
        };
        if !dtypes.contains(&found.dtype) {
            let expected = dtypes.iter().map(Dtype::to_string).collect::<Vec<_>>();
            return Err(TensorError::Dtype {
                path,
                tensor,
                expected: expected.join(" or "),
                found: found.dtype.to_string(),
            });
        }
        if found.shape != shape {
            return Err(TensorError::Shape {
                path,
                tensor,
                expected: shape.into(),
                found: found.shape.clone(),
            });
        }
        Ok(found)
    }

    /// The range of an f32 vector.
    pub(crate) fn expect_vector(
        &self,
        name: &str,
        length: usize,
    ) -> Result<Range<usize>, TensorError> {
        Ok(self.expect(name, &[Dtype::F32], &[length])?.range.clone())
    }
}

/// Little-endian f32 bytes as numbers, whatever their alignment.
pub(crate) fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// Numbers as little-endian f32 bytes.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
