//! Putting a source's matrices in a package's form, some rows at a time.

use std::io;
use std::ops::Range;
use std::path::Path;

use half::f16;

use super::source::SourceTensor;
use crate::build::PieceWriter;
use crate::error::ImportError;
use crate::layout::{Part, Spec, Storage};
use crate::manifest::FileRecord;
use crate::quantise::quantise;
use crate::tensors::{TensorError, f32_bytes};

/// Weights that are in memory at a time, unless a row has more.
const PIECE: usize = 1 << 20;

/// The tensors of a weight file, which stay in their source until it is written.
#[derive(Default)]
pub(super) struct WeightFile<'a> {
    tensors: Vec<Output<'a>>,
}

/// What becomes of a tensor of a source.
struct Output<'a> {
    tensor: SourceTensor<'a>,
    /// None for a vector, which is stored in f32.
    storage: Option<Storage>,
    /// The tensors that it becomes.
    parts: Vec<Part>,
    /// Rows that it becomes; those that the source does not have are zero.
    rows: usize,
    /// Columns that it becomes; those that the source does not have are zero.
    columns: usize,
    /// Matrices side by side that it is cut into. They are stored one after the other.
    cuts: usize,
}

impl<'a> WeightFile<'a> {
    /// Adds a vector in f32.
    pub(super) fn vector(&mut self, name: &str, tensor: SourceTensor<'a>) {
        self.tensors.push(Output {
            storage: None,
            parts: vec![Part::vector(name, tensor.rows)],
            rows: tensor.rows,
            columns: 1,
            cuts: 1,
            tensor,
        });
    }

    /// Adds a matrix, or one cut into a stack of rows: the first `spec.rows` are the first matrix. Zeros fill the last.
    pub(super) fn matrix(&mut self, spec: &Spec, tensor: SourceTensor<'a>) {
        self.tensors.push(Output {
            tensor,
            storage: Some(spec.storage),
            parts: spec.parts(),
            rows: spec.rows * spec.stack.unwrap_or(1),
            columns: spec.columns,
            cuts: 1,
        });
    }

    /// Adds a matrix cut into a stack of columns: the first `spec.columns` of every row are the first matrix. Zeros fill
    /// the last.
    pub(super) fn columns(&mut self, spec: &Spec, tensor: SourceTensor<'a>) {
        let cuts = spec.stack.unwrap_or(1);
        self.tensors.push(Output {
            tensor,
            storage: Some(spec.storage),
            parts: spec.parts(),
            rows: spec.rows,
            columns: spec.columns * cuts,
            cuts,
        });
    }

    /// Writes the file.
    pub(super) fn write(self, path: &Path) -> Result<FileRecord, ImportError> {
        let parts = self.tensors.iter().flat_map(|output| &output.parts);
        let mut out =
            PieceWriter::create(path, parts.cloned().collect()).map_err(ImportError::io(path))?;
        for output in &self.tensors {
            output.write(path, &mut out)?;
        }
        out.finish().map_err(ImportError::io(path))
    }
}

impl Output<'_> {
    fn write(&self, path: &Path, out: &mut PieceWriter) -> Result<(), ImportError> {
        let filled = self.tensor.rows;
        for rows in self.pieces(0..filled) {
            let contents = self.encode(rows.clone())?;
            self.put(rows.clone(), &contents, out)
                .map_err(ImportError::io(path))?;
            self.tensor.release(rows);
        }
        for rows in self.pieces(filled..self.rows) {
            let contents = self.encode_values(&vec![0.0; rows.len() * self.columns])?;
            self.put(rows, &contents, out)
                .map_err(ImportError::io(path))?;
        }
        Ok(())
    }

    /// Rows in pieces that are in memory at a time.
    fn pieces(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = (PIECE / self.columns).max(1);
        let end = rows.end;
        (rows.step_by(step)).map(move |first| first..end.min(first + step))
    }

    /// Writes what some rows became in each of the parts.
    fn put(
        &self,
        rows: Range<usize>,
        contents: &[Vec<u8>],
        out: &mut PieceWriter,
    ) -> io::Result<()> {
        for (part, bytes) in self.parts.iter().zip(contents) {
            // What one row has in one of the matrices that it is cut into.
            let unit = bytes.len() / rows.len() / self.cuts;
            for cut in 0..self.cuts {
                let units = bytes.chunks_exact(unit).skip(cut).step_by(self.cuts);
                let offset = (cut * self.rows + rows.start) * unit;
                out.write(&part.name, offset, &units.collect::<Vec<_>>().concat())?;
            }
        }
        Ok(())
    }

    /// What some rows of the source become in each of the parts.
    fn encode(&self, rows: Range<usize>) -> Result<Vec<Vec<u8>>, TensorError> {
        let tensor = &self.tensor;
        // What is quantised already, and no more finely than it will be, stays as it is.
        if let Some(Storage::Quantised { bits, block }) = self.storage
            && let Some(zero_point) = tensor.encoding.zero_point(bits, block)
            && self.columns == tensor.columns
        {
            let (codes, scales) = tensor.codes(rows, block)?;
            let zero_points = vec![zero_point; scales.len()];
            return Ok(vec![packed(codes, bits), f32_bytes(&scales), zero_points]);
        }
        self.encode_values(&tensor.decode(rows, self.columns)?)
    }

    /// What whole rows of numbers become in each of the parts.
    fn encode_values(&self, values: &[f32]) -> Result<Vec<Vec<u8>>, TensorError> {
        Ok(match self.storage {
            None | Some(Storage::F32) => vec![f32_bytes(values)],
            Some(Storage::F16) => vec![f16_bytes(&self.tensor, values)?],
            Some(Storage::Quantised { bits, block }) => {
                let blocks = quantise(values, bits, block);
                let scales = f32_bytes(&blocks.scales);
                vec![blocks.data, scales, blocks.zero_points]
            }
        })
    }
}

/// Codes of so many bits as a package stores them.
fn packed(codes: Vec<u8>, bits: u8) -> Vec<u8> {
    match bits {
        4 => (codes.as_chunks().0.iter())
            .map(|[low, high]| low | high << 4)
            .collect(),
        _ => codes,
    }
}

fn f16_bytes(tensor: &SourceTensor<'_>, values: &[f32]) -> Result<Vec<u8>, TensorError> {
    let mut bytes = Vec::with_capacity(values.len() * 2);
    for &value in values {
        let half = f16::from_f32(value);
        if half.is_infinite() {
            return Err(tensor.beyond_f16(value));
        }
        bytes.extend(half.to_le_bytes());
    }
    Ok(bytes)
}
