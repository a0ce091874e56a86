//! Where the ONNX Runtime library is.
//!
//! It is loaded when the engine starts, not linked: one `halo` binary then works with the library that `cargo xtask setup`
//! fetches, with a distribution's, and with a build for a particular machine.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The version that set-up fetches and that everything is tested with.
pub const VERSION: &str = "1.31.1";

/// The environment variable that names a library and wins over the search, as in other programs that use ONNX Runtime.
pub const VARIABLE: &str = "ORT_DYLIB_PATH";

/// HALO's data folder: `$HALO_DATA`, else `$XDG_DATA_HOME/halo`, else `~/.local/share/halo`. `None` without a home.
pub fn data_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("HALO_DATA")
        .or_else(|| set("XDG_DATA_HOME").map(|d| d.join("halo")))
        .or_else(|| set("HOME").map(|d| d.join(".local/share/halo")))
}

/// The library to load: `configured` if given, else [`VARIABLE`], else beside the executable, else the data folder.
///
/// # Errors
///
/// A library that the user named must exist: falling back to another one would hide a typing mistake.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, EngineError> {
    if let Some(path) = configured {
        return named("the configuration key `onnxruntime`", path.to_owned());
    }
    if let Some(path) = env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        return named(VARIABLE, PathBuf::from(path));
    }
    let looked_at = search_path();
    match looked_at.iter().find(|p| p.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(EngineError::NoLibrary { looked_at }),
    }
}

fn named(named_by: &'static str, path: PathBuf) -> Result<PathBuf, EngineError> {
    if path.is_file() {
        // dlopen takes a name without a slash for one to search the system's folders for.
        Ok(path.canonicalize().unwrap_or(path))
    } else {
        Err(EngineError::LibraryMissing { named_by, path })
    }
}

/// Why this process cannot load a file, if its first bytes tell. What the system's loader says does not reach us.
pub(crate) fn misfit(path: &Path) -> Option<String> {
    /// The numbers of ELF's machines, and what Rust calls them.
    const MACHINES: [(u16, &str); 5] = [
        (3, "x86"),
        (40, "arm"),
        (62, "x86_64"),
        (183, "aarch64"),
        (243, "riscv64"),
    ];
    let mut start = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    if read.is_err() || !start.starts_with(b"\x7fELF") {
        return Some("it is not a shared library".into());
    }
    let machine = u16::from_le_bytes([start[18], start[19]]);
    let (_, name) = MACHINES
        .into_iter()
        .find(|(number, _)| *number == machine)?;
    let own = env::consts::ARCH;
    (name != own).then(|| format!("it is for {name}, and this machine is {own}"))
}

fn search_path() -> Vec<PathBuf> {
    let beside = env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.to_owned()));
    let beside = beside.into_iter().flat_map(|d| {
        [
            d.join("libonnxruntime.so"),
            d.join(format!("libonnxruntime.so.{VERSION}")),
        ]
    });
    let data = data_folder().map(|d| {
        d.join("onnxruntime")
            .join(VERSION)
            .join(format!("libonnxruntime.so.{VERSION}"))
    });
    beside.chain(data).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_loaded_is_told_by_its_first_bytes() {
        let program = env::current_exe().unwrap();
        assert_eq!(misfit(&program), None);
        let mut bytes = std::fs::read(&program).unwrap();
        bytes.truncate(64);
        let folder = env::temp_dir().join(format!("halo-library-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("lib.so");
        let other = if cfg!(target_arch = "aarch64") {
            (62, "x86_64")
        } else {
            (183, "aarch64")
        };
        bytes[18] = other.0;
        std::fs::write(&file, &bytes).unwrap();
        assert!(misfit(&file).unwrap().contains(other.1));
        std::fs::write(&file, "text").unwrap();
        assert_eq!(misfit(&file).unwrap(), "it is not a shared library");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
