//! Writing safetensors files whose tensors need not all be in memory.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};

use crate::digest;
use crate::layout::Part;
use crate::manifest::FileRecord;

/// Writes a file of tensors one after the other, each by calling `write` with what it comes with. The same tensors
/// always give the same bytes.
pub(crate) fn write_tensors<T>(
    path: &Path,
    tensors: &mut [(Part, T)],
    mut write: impl FnMut(&Part, &T, &mut dyn Write) -> io::Result<()>,
) -> io::Result<FileRecord> {
    tensors.sort_by(|(a, _), (b, _)| order(a).cmp(&order(b)));
    let mut out = digest::Writer::new(File::create(path)?);
    out.write_all(&header(tensors.iter().map(|(part, _)| part))?)?;
    for (part, content) in tensors.iter() {
        write(part, content, &mut out)?;
    }
    let (sha256, bytes) = out.finish();
    Ok(FileRecord { bytes, sha256 })
}

/// A file of tensors that are written piece by piece, in any order: what [`write_tensors`] writes, for tensors of which
/// several are made at once.
pub(crate) struct PieceWriter {
    path: PathBuf,
    file: File,
    /// Where each tensor begins in the file.
    starts: HashMap<String, u64>,
}

impl PieceWriter {
    pub(crate) fn create(path: &Path, mut tensors: Vec<Part>) -> io::Result<Self> {
        tensors.sort_by(|a, b| order(a).cmp(&order(b)));
        let header = header(tensors.iter())?;
        let mut file = File::create(path)?;
        file.write_all(&header)?;
        let mut end = header.len() as u64;
        let mut starts = HashMap::new();
        for tensor in tensors {
            let start = end;
            end += tensor.bytes() as u64;
            starts.insert(tensor.name, start);
        }
        Ok(Self {
            path: path.into(),
            file,
            starts,
        })
    }

    /// Writes bytes of a tensor, the first of which is its `offset`-th.
    ///
    /// # Panics
    ///
    /// If the file was not made for such a tensor.
    pub(crate) fn write(&mut self, tensor: &str, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let at = self.starts[tensor] + offset as u64;
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)
    }

    /// Hash and length of the file.
    pub(crate) fn finish(self) -> io::Result<FileRecord> {
        Ok(FileRecord {
            bytes: self.file.metadata()?.len(),
            sha256: digest::of_file(&self.path)?,
        })
    }
}

/// The order in which the safetensors library puts tensors.
fn order(part: &Part) -> (Reverse<safetensors::Dtype>, &str) {
    (Reverse(part.dtype), &part.name)
}

/// What comes before the tensors, which are in order: the header with its length.
fn header<'a>(tensors: impl Iterator<Item = &'a Part>) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.map(|part| {
        let start = end;
        end += part.bytes();
        let info = TensorInfo {
            dtype: part.dtype,
            shape: part.shape.clone(),
            data_offsets: (start, end),
        };
        (part.name.clone(), info)
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(io::Error::other)?;
    let mut json = serde_json::to_vec(&metadata)?;
    // Spaces, which JSON allows, so that the tensors begin at a multiple of eight.
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}
