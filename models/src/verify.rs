//! Reading all of a package and checking it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use half::f16;
use safetensors::Dtype;

use crate::digest;
use crate::error::PackageError;
use crate::layout::Layout;
use crate::manifest::FileRecord;
use crate::package::Package;
use crate::tensors::{Tensor, TensorError, TensorFile};

/// Bytes read at a time; a multiple of every element's size.
const PIECE: u64 = 1 << 20;

impl Package {
    /// Reads every file once, a piece at a time, and checks what [`open`](Self::open) has not: that its SHA-256 is the
    /// manifest's, that every weight and scale is a finite number and every zero point fits its bits; then that the
    /// tokenizer fits the vocabulary and the calibration can be read. `progress` is told bytes done and bytes in all.
    ///
    /// # Errors
    ///
    /// The first file, in order of names, in which something is wrong, with the tensor.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<(), PackageError> {
        let files = &self.manifest().files;
        let total = files.values().map(|record| record.bytes).sum();
        let mut done = 0;
        for (name, record) in files {
            let path = self.dir().join(name);
            let weights = self.weight_file(name).map(|file| (file, self.layout()));
            check_file(&path, record, weights, |bytes| {
                done += bytes;
                progress(done, total);
            })?;
        }
        self.tokenizer()?;
        self.calibration()?;
        Ok(())
    }
}

/// Checks one file; `weights` is the same file, opened, if it holds weights.
fn check_file(
    path: &Path,
    record: &FileRecord,
    weights: Option<(&TensorFile, &Layout)>,
    mut progress: impl FnMut(u64),
) -> Result<(), PackageError> {
    let io = || PackageError::io(path);
    let mut file = File::open(path).map_err(io())?;
    let mut hash = digest::Writer::new(io::sink());
    let mut piece = Vec::new();
    let mut fault = None;
    for (length, tensor) in sections(weights.map(|(file, _)| file)) {
        let mut offset = 0;
        while offset < length {
            piece.clear();
            let limit = PIECE.min(length - offset);
            let read = (&mut file).take(limit).read_to_end(&mut piece);
            if read.map_err(io())? == 0 {
                break;
            }
            hash.write_all(&piece).map_err(io())?;
            progress(piece.len() as u64);
            if let (None, Some((_, layout)), Some((name, tensor))) = (&fault, weights, tensor) {
                fault = find_fault(path, name, tensor, layout, &piece, offset);
            }
            offset += piece.len() as u64;
        }
    }
    let (found, _) = hash.finish();
    record.check_hash(path, found)?;
    fault.map_or(Ok(()), |fault| Err(fault.into()))
}

/// The lengths of a file's header and tensors, in the order in which they lie in it, without a gap, and of whatever
/// follows.
fn sections(file: Option<&TensorFile>) -> Vec<(u64, Option<(&str, &Tensor)>)> {
    let mut tensors = file.map_or(Vec::new(), |file| file.tensors().collect());
    tensors.sort_by_key(|(_, tensor)| (tensor.range.start, tensor.range.end));
    let header = tensors.first().map(|(_, tensor)| tensor.range.start);
    let header = header.map(|start| (start as u64, None));
    let tensors = tensors
        .into_iter()
        .map(|found| (found.1.range.len() as u64, Some(found)));
    let rest = (u64::MAX, None);
    header.into_iter().chain(tensors).chain([rest]).collect()
}

/// The first element of a piece of a tensor that it must not have. `offset` is where in the tensor the piece begins.
fn find_fault(
    path: &Path,
    name: &str,
    tensor: &Tensor,
    layout: &Layout,
    piece: &[u8],
    offset: u64,
) -> Option<TensorError> {
    let element = tensor.dtype.bitsize() / 8;
    let at = |position: usize| offset as usize / element + position;
    let (path, tensor_name) = (path.to_path_buf(), name.to_owned());
    let infinite = match tensor.dtype {
        Dtype::F32 => {
            let mut values = piece.as_chunks().0.iter();
            values.position(|bytes| !f32::from_le_bytes(*bytes).is_finite())
        }
        Dtype::F16 => {
            let mut values = piece.as_chunks().0.iter();
            values.position(|bytes| !f16::from_le_bytes(*bytes).is_finite())
        }
        _ => {
            let limit = layout.largest_zero_point(name)?;
            let index = at(piece.iter().position(|zero| *zero > limit)?);
            return Some(TensorError::ZeroPoint {
                path,
                tensor: tensor_name,
                index,
                limit,
            });
        }
    };
    Some(TensorError::NotFinite {
        path,
        tensor: tensor_name,
        index: at(infinite?),
    })
}
