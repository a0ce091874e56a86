//! The folder in which a node keeps the packages that others gave it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::atomic::{self, replace_file};
use crate::download::DownloadError;
use crate::error::PackageError;
use crate::manifest::MANIFEST;
use crate::package::Package;

/// Digits of a list's digest that go into the name of a package's folder.
const DIGITS: usize = 16;

/// What the folder of a package begins with until it is whole.
const PARTIAL: &str = ".halo-download-";

/// The file with the name of the package's folder that was served last.
const SERVED: &str = ".halo-served";

/// A folder of packages, each in a folder with the model's name and the digest of its [`PieceList`](crate::PieceList).
#[derive(Clone, Debug)]
pub struct PackageCache {
    folder: PathBuf,
    limit: Option<u64>,
}

impl PackageCache {
    /// A cache in a folder, which need not exist yet, that may take so many bytes; without a limit, what the disk has.
    #[must_use]
    pub fn new(folder: PathBuf, limit: Option<u64>) -> Self {
        Self { folder, limit }
    }

    /// The package with a list of this digest, if it is here.
    ///
    /// # Errors
    ///
    /// It is here and cannot be opened.
    pub fn find(&self, name: &str, digest: &str) -> Result<Option<Package>, PackageError> {
        let folder = self.place(name, digest);
        folder.is_dir().then(|| Package::open(&folder)).transpose()
    }

    /// The package that was served last, if it can still be.
    #[must_use]
    pub fn served_last(&self) -> Option<Package> {
        let name = fs::read_to_string(self.folder.join(SERVED)).ok()?;
        // The name of a folder and nothing more.
        let plain = Path::new(&name).components().count() == 1 && !name.starts_with('.');
        Package::open(&self.folder.join(plain.then_some(name)?)).ok()
    }

    /// Remembers which package is served, if it is one of these.
    ///
    /// # Errors
    ///
    /// That cannot be written down.
    pub fn note_served(&self, package: &Package) -> io::Result<()> {
        let name = package.dir().file_name().and_then(|name| name.to_str());
        match name {
            Some(name) if package.dir().parent() == Some(&self.folder) => {
                replace_file(&self.folder.join(SERVED), name.as_bytes())
            }
            _ => Ok(()),
        }
    }

    /// Where a package goes.
    pub(crate) fn place(&self, name: &str, digest: &str) -> PathBuf {
        self.folder
            .join(format!("{name}-{}", &digest[..DIGITS.min(digest.len())]))
    }

    /// Where a package is until it is whole.
    pub(crate) fn partial(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{PARTIAL}{digest}"))
    }

    /// Removes what other downloads have left here, unless they go on: there is one at a time, and the latest counts.
    pub(crate) fn remove_other_partials(&self, folder: &Path) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let partial = name.to_str().is_some_and(|name| name.starts_with(PARTIAL));
            let path = entry.path();
            if partial && path != folder && atomic::lock(&path).is_some() {
                match fs::remove_dir_all(&path) {
                    Ok(()) => info!("removed {}, which was never completed", path.display()),
                    Err(error) => warn!("cannot remove {}: {error}", path.display()),
                }
            }
        }
    }

    /// Whether there is room for a package of so many bytes, of which some are here already, and to spare on the disk.
    pub(crate) fn check_room(
        &self,
        bytes: u64,
        here: u64,
        spare: u64,
    ) -> Result<(), DownloadError> {
        let folder = &self.folder;
        let needed = self.taken().saturating_add(bytes);
        if let Some(limit) = self.limit.filter(|limit| needed > *limit) {
            return Err(DownloadError::Limit {
                folder: folder.clone(),
                needed,
                limit,
            });
        }
        let disk = rustix::fs::statvfs(folder);
        let disk = disk.map_err(|e| DownloadError::io(folder)(e.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let (available, needed) = (free.saturating_sub(spare), bytes.saturating_sub(here));
        if needed > available {
            return Err(DownloadError::NoSpace {
                folder: folder.clone(),
                needed,
                available,
            });
        }
        Ok(())
    }

    /// Bytes of the whole packages here that others gave.
    fn taken(&self) -> u64 {
        let given = |name: &str| {
            let digest = name.rsplit_once('-').map(|(_, digest)| digest);
            digest.is_some_and(|d| d.len() == DIGITS && d.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        let folders = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let packages = folders.filter(|folder| {
            folder.file_name().to_str().is_some_and(given) && folder.path().join(MANIFEST).is_file()
        });
        let files = packages.filter_map(|folder| fs::read_dir(folder.path()).ok());
        let lengths = files
            .flatten()
            .flatten()
            .filter_map(|file| file.metadata().ok());
        lengths.map(|metadata| metadata.len()).sum()
    }
}
