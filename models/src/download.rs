//! A package that arrives in pieces: kept on the disk until it is whole, and begun anew where it was left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::atomic::{self, replace_file};
use crate::digest;
use crate::error::PackageError;
use crate::manifest::MANIFEST;
use crate::package::Package;
use crate::package_cache::PackageCache;
use crate::piece_list::{PIECE_BYTES, PieceList};

/// Space that a download leaves on its disk.
const SPARE_BYTES: u64 = 64 << 20;

/// Why a package cannot be taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// A piece is not what the list says.
    #[error("piece {piece} of {file} has SHA-256 {found}, not {expected}")]
    Damaged {
        /// The file.
        file: String,
        /// The piece, from 0.
        piece: u64,
        /// Hash by the list.
        expected: String,
        /// Hash of what came.
        found: String,
    },
    /// The disk is too full.
    #[error("{} more bytes are needed in {}, and the disk has {available} to spare; make room there, or choose another folder", .needed, .folder.display())]
    NoSpace {
        /// Where packages are kept.
        folder: PathBuf,
        /// Bytes still to come.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// Packages would take more than they may.
    #[error("packages from other nodes may take {limit} bytes in {}, and would take {needed}; remove one there, or raise the limit", .folder.display())]
    Limit {
        /// Where packages are kept.
        folder: PathBuf,
        /// Bytes with the new one.
        needed: u64,
        /// Bytes that are allowed.
        limit: u64,
    },
    /// Another process takes it in.
    #[error("another process is downloading to {}; let it, or end it", .folder.display())]
    Busy {
        /// Where what has come is kept.
        folder: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// All pieces came, and are no package.
    #[error(transparent)]
    Package(#[from] PackageError),
}

impl DownloadError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// A package of which some pieces may still be missing. Nothing of it is visible as a package before [`finish`](Self::finish).
#[derive(Debug)]
pub struct Download {
    list: PieceList,
    destination: PathBuf,
    /// Where the files are until then. It is locked.
    folder: PathBuf,
    _lock: File,
    /// The first piece that is missing: which file in the list's order, and which piece.
    at: (usize, u64),
    /// That file, once it has been opened.
    file: Option<File>,
    /// Bytes that are there.
    done: u64,
}

impl Download {
    /// Takes up a download where it was left, or begins it. What is there is read and checked: after a power cut it may be
    /// anything.
    ///
    /// # Errors
    ///
    /// There is not enough room, another process is at it, or the folder cannot be written to.
    pub fn begin(cache: &PackageCache, list: PieceList) -> Result<Self, DownloadError> {
        let digest = list.digest();
        let folder = cache.partial(&digest);
        fs::create_dir_all(&folder).map_err(DownloadError::io(&folder))?;
        cache.remove_other_partials(&folder);
        let lock = atomic::lock(&folder).ok_or_else(|| DownloadError::Busy {
            folder: folder.clone(),
        })?;
        let mut download = Self {
            destination: cache.place(list.name(), &digest),
            folder,
            _lock: lock,
            at: (0, 0),
            file: None,
            done: 0,
            list,
        };
        download.take_up()?;
        cache.check_room(download.list.total_bytes(), download.done, SPARE_BYTES)?;
        Ok(download)
    }

    /// Finds the first piece that is missing, and takes away what comes after it.
    fn take_up(&mut self) -> Result<(), DownloadError> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let files = self.list.files().collect::<Vec<_>>();
        for (number, (name, bytes, hashes)) in files.iter().enumerate() {
            let path = self.folder.join(name);
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let mut file = options.open(&path).map_err(DownloadError::io(&path))?;
            let mut sound = 0;
            for expected in *hashes {
                piece.clear();
                let mut next = (&mut file).take(PIECE_BYTES as u64);
                next.read_to_end(&mut piece)
                    .map_err(DownloadError::io(&path))?;
                if digest::of_bytes(&piece) != *expected {
                    break;
                }
                sound += 1;
            }
            let length = (sound * PIECE_BYTES as u64).min(*bytes);
            file.set_len(length).map_err(DownloadError::io(&path))?;
            self.done += length;
            if sound < hashes.len() as u64 {
                (self.at, self.file) = ((number, sound), Some(file));
                return Ok(());
            }
        }
        self.at = (files.len(), 0);
        Ok(())
    }

    /// What comes.
    #[must_use]
    pub fn list(&self) -> &PieceList {
        &self.list
    }

    /// Bytes that are there.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The piece to be added next: its file and number. Nothing when all are there.
    #[must_use]
    pub fn next(&self) -> Option<(&str, u64)> {
        let (name, ..) = self.list.files().nth(self.at.0)?;
        Some((name, self.at.1))
    }

    /// Adds the next piece, if it is the right one.
    ///
    /// # Errors
    ///
    /// It is damaged, or cannot be written; then it is as if it had not come.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        let Some((name, _, hashes)) = self.list.files().nth(self.at.0) else {
            return Ok(());
        };
        let (expected, found) = (&hashes[self.at.1 as usize], digest::of_bytes(bytes));
        if found != *expected {
            return Err(DownloadError::Damaged {
                file: name.to_owned(),
                piece: self.at.1,
                expected: expected.clone(),
                found,
            });
        }
        let path = self.folder.join(name);
        let last = self.at.1 + 1 == hashes.len() as u64;
        let file = match self.file.take() {
            Some(file) => file,
            None => (OpenOptions::new().write(true).create(true))
                .truncate(self.at.1 == 0)
                .open(&path)
                .map_err(DownloadError::io(&path))?,
        };
        let start = self.at.1 * PIECE_BYTES as u64;
        let written = file.write_all_at(bytes, start).and_then(|()| match last {
            true => file.sync_all(),
            false => Ok(()),
        });
        if let Err(error) = written {
            // The disk may have taken a part of it.
            file.set_len(start).map_err(DownloadError::io(&path))?;
            return Err(DownloadError::io(&path)(error));
        }
        self.done += bytes.len() as u64;
        if last {
            self.at = (self.at.0 + 1, 0);
            self.skip_empty()?;
        } else {
            self.file = Some(file);
            self.at.1 += 1;
        }
        Ok(())
    }

    /// Makes the files that have no bytes, and so no piece that would make them.
    fn skip_empty(&mut self) -> Result<(), DownloadError> {
        while let Some((name, 0, _)) = self.list.files().nth(self.at.0) {
            let path = self.folder.join(name);
            File::create(&path).map_err(DownloadError::io(&path))?;
            self.at.0 += 1;
        }
        Ok(())
    }

    /// Checks the whole, once no piece is missing, and puts it in its place.
    ///
    /// # Errors
    ///
    /// It is no package that can be used: then what has come is removed. Or it cannot be put in its place.
    pub fn finish(self) -> Result<Package, DownloadError> {
        let manifest = self.folder.join(MANIFEST);
        replace_file(&manifest, self.list.manifest_text().as_bytes())
            .map_err(DownloadError::io(&manifest))?;
        let sound = Package::open(&self.folder).and_then(|package| package.verify(|_, _| ()));
        if let Err(error) = sound {
            fs::remove_dir_all(&self.folder).map_err(DownloadError::io(&self.folder))?;
            return Err(error.into());
        }
        let destination = &self.destination;
        fs::rename(&self.folder, destination).map_err(DownloadError::io(destination))?;
        Ok(Package::open(destination)?)
    }
}
