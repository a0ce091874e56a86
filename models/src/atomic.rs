//! Files that are whole or absent: written under a temporary name and renamed into place.

#[cfg(unix)]
use std::fs::Permissions;
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, TempDir};

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
    let mut builder = Builder::new();
    allow(&mut builder, 0o777);
    builder.prefix(".halo-").tempdir_in(parent)
}

/// Gives files the permissions that the user's umask asks for; temporary files are private otherwise.
fn allow(builder: &mut Builder<'_, '_>, mode: u32) {
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode));
    #[cfg(not(unix))]
    let _ = (builder, mode);
}
