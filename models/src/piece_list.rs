//! What the pieces of a package's files are, so that each can be checked when it has arrived.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::PackageError;
use crate::manifest::{MANIFEST, Manifest};
use crate::package::Package;

/// Bytes of a piece; a file's last may have fewer. Small, so that little else waits behind one.
pub const PIECE_BYTES: usize = 256 << 10;

/// A package's manifest and the SHA-256 of each piece of its other files. Whoever knows the list's own digest can take both the
/// list and the pieces from anybody.
#[derive(Clone, Debug)]
pub struct PieceList {
    pub(crate) manifest: Manifest,
    content: Content,
    bytes: Vec<u8>,
}

/// What travels. The manifest is there as it is on the disk, since its hash counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    manifest: String,
    /// By file, each piece's.
    pieces: BTreeMap<String, Vec<String>>,
}

impl PieceList {
    /// Reads a package's files once, and checks meanwhile that they are what the manifest says. `progress` is told bytes done
    /// and bytes in all.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or has another hash than the manifest says.
    pub fn of(package: &Package, mut progress: impl FnMut(u64, u64)) -> Result<Self, PackageError> {
        let path = package.dir().join(MANIFEST);
        let manifest = fs::read_to_string(&path).map_err(PackageError::io(&path))?;
        let parsed = Manifest::parse(&path, manifest.as_bytes())?;
        let total = package_bytes(&parsed);
        let mut done = 0;
        let mut pieces = BTreeMap::new();
        for (name, record) in &parsed.files {
            let path = package.dir().join(name);
            let (hashes, found) = hashes(&path, |bytes| {
                done += bytes;
                progress(done, total);
            })
            .map_err(PackageError::io(&path))?;
            record.check_hash(&path, found)?;
            pieces.insert(name.clone(), hashes);
        }
        let content = Content { manifest, pieces };
        Ok(Self {
            // Strings and maps with string keys: there is nothing here that JSON cannot express.
            bytes: serde_json::to_vec(&content).unwrap_or_default(),
            manifest: parsed,
            content,
        })
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// It is none, or its manifest is of no package; in words.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let content: Content = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let manifest = Manifest::parse(Path::new(MANIFEST), content.manifest.as_bytes())
            .map_err(|e| e.to_string())?;
        if !manifest.files.keys().eq(content.pieces.keys()) {
            return Err("its files are not those of its manifest".into());
        }
        let mut total = 0u64;
        for (name, record) in &manifest.files {
            let found = content.pieces[name].len() as u64;
            let expected = record.bytes.div_ceil(PIECE_BYTES as u64);
            if found != expected {
                return Err(format!(
                    "it has {found} pieces of `{name}`, whose {} bytes have {expected}",
                    record.bytes
                ));
            }
            total = total
                .checked_add(record.bytes)
                .ok_or("its files have more bytes than can be counted")?;
        }
        Ok(Self {
            manifest,
            content,
            bytes,
        })
    }

    /// The list as it travels.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of [`bytes`](Self::bytes), 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        digest::of_bytes(&self.bytes)
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// What the package's weights are; see [`Package::identity`].
    #[must_use]
    pub fn identity(&self) -> String {
        self.manifest.identity()
    }

    /// Bytes of all files but the manifest.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        package_bytes(&self.manifest)
    }

    /// The manifest as it is on the disk.
    pub(crate) fn manifest_text(&self) -> &str {
        &self.content.manifest
    }

    /// The files: name, bytes, and each piece's hash.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64, &[String])> {
        let files = self.manifest.files.iter();
        files.map(|(name, record)| {
            let hashes = self.content.pieces.get(name).map_or(&[][..], Vec::as_slice);
            (name.as_str(), record.bytes, hashes)
        })
    }
}

impl Package {
    /// Reads a piece of one of the package's files; fewer bytes than [`PIECE_BYTES`], or none, at the file's end.
    ///
    /// # Errors
    ///
    /// There is no such file, or it cannot be read.
    pub fn piece(&self, file: &str, piece: u64) -> Result<Vec<u8>, PackageError> {
        let path = self.dir().join(file);
        let Some(record) = self.manifest().files.get(file) else {
            return Err(PackageError::Missing { path });
        };
        let start = piece.saturating_mul(PIECE_BYTES as u64);
        if start >= record.bytes {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; PIECE_BYTES];
        let mut read = 0;
        let file = File::open(&path).map_err(PackageError::io(&path))?;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], start + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PackageError::io(&path)(error)),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }
}

fn package_bytes(manifest: &Manifest) -> u64 {
    let files = manifest.files.values();
    files.fold(0, |sum, record| sum.saturating_add(record.bytes))
}

/// The hash of each piece of a file, and the file's. `progress` is told of bytes as they are read.
fn hashes(path: &Path, mut progress: impl FnMut(u64)) -> io::Result<(Vec<String>, String)> {
    let mut file = File::open(path)?;
    let mut all = digest::Writer::new(io::sink());
    let mut hashes = Vec::new();
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        piece.clear();
        let mut next = (&mut file).take(PIECE_BYTES as u64);
        if next.read_to_end(&mut piece)? == 0 {
            return Ok((hashes, all.finish().0));
        }
        all.write_all(&piece)?;
        hashes.push(digest::of_bytes(&piece));
        progress(piece.len() as u64);
    }
}
