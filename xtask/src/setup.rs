//! `cargo xtask setup`: ONNX Runtime's shared library, into the data folder.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::onnxruntime::{self, Pin, VERSION};
use crate::{paths, pip, say};

/// Bring ONNX Runtime for this machine's architecture.
///
/// Downloads the `onnxruntime` package from PyPI with your pip, checks its SHA-256 and takes the shared library out of it into
/// $HALO_DATA, or $XDG_DATA_HOME/halo, or ~/.local/share/halo. Where it is there already, nothing happens and no network is
/// needed. Set ORT_DYLIB_PATH to use a library of your own.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Bring it again even if it is there.
    #[arg(long)]
    force: bool,
    /// Take it from this wheel instead of downloading one.
    #[arg(long, value_name = "FILE")]
    wheel: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let library = ready(args)?;
    say::step(
        "Ready",
        format_args!("ONNX Runtime in {}", library.display()),
    );
    Ok(())
}

/// Makes sure that there is an ONNX Runtime, as a first step of another command, and returns its shared library.
pub(crate) fn ready(args: Args) -> Result<PathBuf> {
    if let Some(library) = env::var_os("ORT_DYLIB_PATH")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
    {
        ensure!(
            library.is_file(),
            "ORT_DYLIB_PATH is set to {}, which is not a file: correct it, or unset it to have ONNX Runtime brought",
            library.display()
        );
        say::step(
            "Using",
            format_args!(
                "ORT_DYLIB_PATH, so nothing is brought: {}",
                library.display()
            ),
        );
        return Ok(library);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_env = "gnu")),
        "set-up brings ONNX Runtime for Linux with glibc only: install it in another way and set ORT_DYLIB_PATH to its shared library"
    );
    let pin = Pin::of(env::consts::ARCH)?;
    let folder = onnxruntime::folder(&paths::data()?);
    bring(&pin, &folder, args.force, |temporary| match args.wheel {
        Some(wheel) => Ok(wheel),
        None => download(&pin, temporary),
    })
}

/// The shared library that HALO is tested with, for this or another architecture, brought if need be.
pub(crate) fn for_architecture(arch: &str) -> Result<PathBuf> {
    let pin = Pin::of(arch)?;
    let mut data = paths::data()?;
    if arch != env::consts::ARCH {
        // As that machine's data folder would be.
        data.push(arch);
    }
    bring(&pin, &onnxruntime::folder(&data), false, |temporary| {
        download(&pin, temporary)
    })
}

fn download(pin: &Pin, folder: &Path) -> Result<PathBuf> {
    say::step(
        "Downloading",
        format_args!(
            "ONNX Runtime {VERSION} for {} with pip ({} MB)",
            pin.arch, pin.megabytes
        ),
    );
    pip::download(pin, folder)
}

/// Installs the wheel that `fetch` gets, given a temporary folder, unless `folder` holds the library already.
fn bring(
    pin: &Pin,
    folder: &Path,
    force: bool,
    fetch: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<PathBuf> {
    if !force && onnxruntime::is_present(folder, pin)? {
        return Ok(folder.join(onnxruntime::library_name()));
    }
    let temporary = tempfile::tempdir()?;
    let wheel = fetch(temporary.path())?;
    onnxruntime::install(&wheel, pin, folder)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::bail;

    use super::*;

    #[test]
    fn what_is_there_is_not_brought_again() {
        let temp = tempfile::tempdir().unwrap();
        let (wheel, pin) = onnxruntime::tests::wheel(temp.path(), b"library");
        let folder = onnxruntime::folder(temp.path());
        let library = bring(&pin, &folder, false, |_| Ok(wheel.clone())).unwrap();
        assert_eq!(
            bring(&pin, &folder, false, |_| bail!("brought again")).unwrap(),
            library
        );

        assert_eq!(
            bring(&pin, &folder, true, |_| bail!("forced"))
                .unwrap_err()
                .to_string(),
            "forced"
        );
        fs::write(&library, b"damaged").unwrap();
        bring(&pin, &folder, false, |_| Ok(wheel)).unwrap();
        assert_eq!(fs::read(&library).unwrap(), b"library");
    }

    #[test]
    fn a_failed_download_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let (_, pin) = onnxruntime::tests::wheel(temp.path(), b"library");
        let folder = onnxruntime::folder(temp.path());
        bring(&pin, &folder, false, |_| bail!("no network")).unwrap_err();
        assert!(!folder.exists());
    }
}
