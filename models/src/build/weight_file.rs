//! Writing a safetensors file tensor by tensor.

use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};

use crate::digest;
use crate::layout::Part;
use crate::manifest::FileRecord;

/// Writes a file of tensors, each by calling `write` with what it comes with, so that they need not all be in memory.
/// Sorts them as the library does: the same tensors always give the same bytes.
pub(crate) fn write_tensors<T>(
    path: &Path,
    tensors: &mut [(Part, T)],
    mut write: impl FnMut(&Part, &T, &mut dyn Write) -> io::Result<()>,
) -> io::Result<FileRecord> {
    tensors.sort_by(|(a, _), (b, _)| (Reverse(a.dtype), &a.name).cmp(&(Reverse(b.dtype), &b.name)));
    let mut end = 0;
    let infos = tensors.iter().map(|(part, _)| {
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
    let mut header = serde_json::to_vec(&metadata)?;
    // Spaces, which JSON allows, so that the tensors begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut out = digest::Writer::new(File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (part, content) in tensors.iter() {
        write(part, content, &mut out)?;
    }
    let (sha256, bytes) = out.finish();
    Ok(FileRecord { bytes, sha256 })
}
