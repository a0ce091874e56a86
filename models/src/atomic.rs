//! Files that are whole or absent: written under a temporary name and renamed into place.

#[cfg(unix)]
use std::fs::Permissions;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, TempDir};
use tracing::{info, warn};

/// Puts a file in place, replacing what is there.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut builder = Builder::new();
    allow(&mut builder, 0o666);
    let mut file = builder.prefix(".halo-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Makes a temporary folder, to be renamed, in `parent`.
pub(crate) fn temporary_folder(parent: &Path) -> io::Result<TempDir> {
    folder(parent, ".halo-")
}

/// A folder in which a package is being built. It is locked meanwhile.
pub(crate) struct Building {
    folder: TempDir,
    _lock: Option<File>,
}

impl Building {
    const PREFIX: &str = ".halo-import-";

    /// Makes one in `parent`, and removes those that were left there by a process that was killed.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let ours = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(Self::PREFIX));
            // One that is empty may be another process's, which has not yet locked it.
            let filled =
                || fs::read_dir(entry.path()).is_ok_and(|mut files| files.next().is_some());
            if ours && filled() && lock(&entry.path()).is_some() {
                let path = entry.path();
                match fs::remove_dir_all(&path) {
                    Ok(()) => info!(
                        "removed {}, left by an import that was ended",
                        path.display()
                    ),
                    Err(error) => warn!("cannot remove {}: {error}", path.display()),
                }
            }
        }
        let folder = folder(parent, Self::PREFIX)?;
        let lock = lock(folder.path());
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Locks a folder, if nobody else has and the file system can.
pub(crate) fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

fn folder(parent: &Path, prefix: &str) -> io::Result<TempDir> {
    let mut builder = Builder::new();
    allow(&mut builder, 0o777);
    builder.prefix(prefix).tempdir_in(parent)
}

/// Gives files the permissions that the user's umask asks for; temporary files are private otherwise.
fn allow(builder: &mut Builder<'_, '_>, mode: u32) {
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode));
    #[cfg(not(unix))]
    let _ = (builder, mode);
}
