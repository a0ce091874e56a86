//! What a model is imported from.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::build::Chat;
use crate::error::ImportError;
use crate::gguf::Encoding;
use crate::mapped::Mapped;
use crate::shape::Shape;
use crate::tensors::TensorError;
use crate::tokenizer::Tokenizer;

/// A model in another format than HALO's. Its tensors go by the names that they have in a package, and those of no
/// layer by `None`; the order of their rows is that of Hugging Face's layout, whatever the format has instead.
pub(super) trait Source {
    /// What it is, for people to read.
    fn description(&self) -> String;

    /// Its dimensions, validated.
    fn shape(&self) -> &Shape;

    /// Its tokenizer: the file that it comes from, for errors, and the content of a `tokenizer.json`.
    fn tokenizer(&self) -> Result<(PathBuf, Vec<u8>), ImportError>;

    /// How conversations are written, if the model was trained for any. Completes the shape's special tokens.
    fn chat(&self, tokenizer: &Tokenizer, shape: &mut Shape) -> Result<Option<Chat>, ImportError>;

    /// Checks that there is no tensor but those of a package, which would be left out: with it, the model would compute
    /// something else.
    fn check_tensors(&self, known: &[(Option<usize>, &str)]) -> Result<(), ImportError>;

    /// Finds a tensor of one shape.
    fn tensor(
        &self,
        layer: Option<usize>,
        name: &str,
        shape: &[usize],
    ) -> Result<SourceTensor<'_>, TensorError>;
}

/// A tensor of a source, which has the shape that was asked for and is as long as its encoding says.
#[derive(Clone, Debug)]
pub(super) struct SourceTensor<'a> {
    pub(super) path: &'a Path,
    /// Its name in the file.
    pub(super) name: String,
    pub(super) encoding: Encoding,
    pub(super) map: &'a Mapped,
    /// Its bytes in the map.
    pub(super) range: Range<usize>,
    pub(super) rows: usize,
    /// 1 for a vector.
    pub(super) columns: usize,
    pub(super) order: RowOrder,
}

/// How rows lie in a source.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowOrder {
    Plain,
    /// Rows of a head that rotary positions turn together are neighbours; in Hugging Face's layout they are half a
    /// head apart.
    Pairs {
        /// Rows of a head.
        head: usize,
    },
}

impl RowOrder {
    /// The row of a source that is to be row `row`.
    fn source(self, row: usize) -> usize {
        match self {
            Self::Plain => row,
            Self::Pairs { head } => {
                let (start, row) = (row / head * head, row % head);
                start + row % (head / 2) * 2 + row / (head / 2)
            }
        }
    }
}

impl SourceTensor<'_> {
    /// Some rows in f32, one after the other. Zeros make each `width` long.
    pub(super) fn decode(&self, rows: Range<usize>, width: usize) -> Result<Vec<f32>, TensorError> {
        let mut values = vec![0.0; rows.len() * width];
        for (row, values) in rows.zip(values.chunks_exact_mut(width)) {
            let values = &mut values[..self.columns];
            self.encoding.decode(self.row(row), values);
            if let Some(column) = values.iter().position(|value| !value.is_finite()) {
                return Err(self.not_finite(row, column));
            }
        }
        Ok(values)
    }

    /// The codes of some rows and the scale of every `block` of them: see [`Encoding::copy_codes`].
    pub(super) fn codes(
        &self,
        rows: Range<usize>,
        block: usize,
    ) -> Result<(Vec<u8>, Vec<f32>), TensorError> {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in rows {
            let first = scales.len();
            (self.encoding).copy_codes(self.row(row), block, &mut codes, &mut scales);
            let not_finite = |scale: &f32| !scale.is_finite();
            if let Some(index) = scales[first..].iter().position(not_finite) {
                return Err(self.not_finite(row, index * block));
            }
        }
        Ok((codes, scales))
    }

    /// Says that some rows, which have been read, will not be read again.
    pub(super) fn release(&self, rows: Range<usize>) {
        let row = self.range.len() / self.rows;
        let start = self.range.start;
        let range = start + rows.start * row..start + rows.end * row;
        self.map.release(&range);
    }

    fn row(&self, row: usize) -> &[u8] {
        let length = self.range.len() / self.rows;
        let start = self.range.start + self.order.source(row) * length;
        &self.map[start..start + length]
    }

    fn not_finite(&self, row: usize, column: usize) -> TensorError {
        TensorError::NotFinite {
            path: self.path.into(),
            tensor: self.name.clone(),
            index: self.order.source(row) * self.columns + column,
        }
    }

    /// An error for a value that f16 cannot represent.
    pub(super) fn beyond_f16(&self, value: f32) -> TensorError {
        TensorError::F16Range {
            path: self.path.into(),
            tensor: self.name.clone(),
            value,
        }
    }
}

/// Rows and columns of a matrix, or of a vector, each of whose elements is a row: rows are what may be in another order.
pub(super) fn rows_and_columns(shape: &[usize]) -> (usize, usize) {
    match shape {
        [rows, columns] => (*rows, *columns),
        _ => (shape.iter().product(), 1),
    }
}
