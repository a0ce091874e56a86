//! Where things are: this repository, the folder that set-up fills, and what lies in a folder.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result};

/// The root of this repository.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // Cargo sets it at run time too. What was compiled in may name another clone that shares the target directory.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        manifest
            .parent()
            .map_or_else(|| manifest.clone(), Path::to_owned)
    });
    &ROOT
}

/// The folder for what set-up brings: `$HALO_DATA`, else `$XDG_DATA_HOME/halo`, else `~/.local/share/halo`. The engine
/// looks for ONNX Runtime there by the same rule.
pub(crate) fn data() -> Result<PathBuf> {
    data_from(|name| env::var_os(name))
}

fn data_from(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(data) = set("HALO_DATA") {
        return Ok(data);
    }
    if let Some(data) = set("XDG_DATA_HOME") {
        return Ok(data.join("halo"));
    }
    let home = set("HOME").context("there is no home folder to keep data in: set HOME, or HALO_DATA to a folder you can write to")?;
    Ok(home.join(".local/share/halo"))
}

/// What lies in a folder, by name.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// This program, to be run again. Cargo may have put another build of it in its place since it began: that is it, then.
pub(crate) fn program() -> Result<PathBuf> {
    let path = env::current_exe().context("cannot find this program")?;
    // What Linux adds to the name of a file that is gone.
    let name = path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(name.map_or_else(|| path.clone(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn the_data_folder_is_the_first_that_is_set() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> = set
                .iter()
                .map(|&(name, value)| (name.into(), value.into()))
                .collect();
            data_from(move |name| {
                set.iter()
                    .find(|(set, _)| set == name)
                    .map(|(_, value)| value.clone())
            })
        };
        let all = [("HALO_DATA", "/a"), ("XDG_DATA_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(with(&all).unwrap(), Path::new("/a"));
        assert_eq!(with(&all[1..]).unwrap(), Path::new("/b/halo"));
        assert_eq!(with(&all[2..]).unwrap(), Path::new("/c/.local/share/halo"));
        assert_eq!(
            with(&[("HALO_DATA", ""), ("HOME", "/c")]).unwrap(),
            Path::new("/c/.local/share/halo")
        );
        assert!(with(&[]).unwrap_err().to_string().contains("HALO_DATA"));
    }
}
