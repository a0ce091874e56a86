//! The files of a package, on their way into it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{cargo, paths};

/// What a package will hold, in a temporary folder. Permissions are set, whatever the user's are.
pub(super) struct Tree(TempDir);

impl Tree {
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        Ok(Self(folder))
    }

    /// The place for a file, in a folder that exists.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let mut folder = self.0.path().to_owned();
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            folder.push(name);
            if names.peek().is_some() && !folder.exists() {
                fs::create_dir(&folder)?;
                fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
            }
        }
        Ok(folder)
    }

    /// Writes a file.
    pub(super) fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.write(path, bytes.as_ref(), 0o644)
    }

    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let place = self.place(path)?;
        fs::write(&place, bytes).with_context(|| format!("cannot write {}", place.display()))?;
        Ok(fs::set_permissions(&place, Permissions::from_mode(mode))?)
    }

    /// Copies a file, or a folder with all that is in it.
    pub(super) fn copy(&self, path: &str, from: &Path) -> Result<()> {
        if !from.is_dir() {
            return self.put(path, read(from)?);
        }
        for file in paths::files(from)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            self.copy(&format!("{path}/{name}"), &file)?;
        }
        Ok(())
    }

    /// Copies a program.
    pub(super) fn program(&self, path: &str, from: &Path) -> Result<()> {
        self.write(path, &read(from)?, 0o755)
    }

    /// Writes a file into a folder, compressed as manual pages are.
    pub(super) fn compressed(
        &self,
        folder: &str,
        name: &str,
        bytes: impl AsRef<[u8]>,
    ) -> Result<()> {
        let path = format!("{folder}/{name}");
        self.put(&path, bytes)?;
        // Without its name and time.
        cargo::run(Command::new("gzip").args(["-9n"]).arg(self.place(&path)?))
    }

    /// Makes a link to a relative path.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<()> {
        Ok(symlink(target, self.place(path)?)?)
    }

    /// What it takes on a disk, in units of 1,024 bytes.
    pub(super) fn kilobytes(&self) -> Result<u64> {
        fn bytes(folder: &Path) -> Result<u64> {
            paths::files(folder)?.iter().try_fold(0, |sum, path| {
                let found = fs::symlink_metadata(path)?;
                Ok(sum
                    + if found.is_dir() {
                        bytes(path)?
                    } else {
                        found.len()
                    })
            })
        }
        Ok(bytes(self.0.path())?.div_ceil(1024))
    }

    /// Makes the package. Every file belongs to root and is dated `epoch`.
    pub(super) fn package(&self, to: &Path, epoch: &str) -> Result<PathBuf> {
        let folder = to.parent().context("a package is made in a folder")?;
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut build = Command::new("dpkg-deb");
        build
            // More threads divide what they compress in another way.
            .args(["--build", "--root-owner-group", "-Zxz", "--threads-max=1"])
            .arg(self.0.path())
            .arg(to)
            .env("SOURCE_DATE_EPOCH", epoch);
        cargo::output(&mut build)?;
        Ok(to.to_owned())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
