//! An import that is ended in the middle leaves nothing that looks whole, and the next one tidies up.
#![cfg(unix)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use halo_models::Package;
use tempfile::TempDir;

/// The default model in Hugging Face's layout.
const SOURCE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/tests/data/tiny-hf"
);

/// Imports to `tiny` in a folder, after the shell has been told something. The embedding takes less than 512 KB, a layer
/// more than 3 MB.
fn import(folder: &Path, first: &str) -> Output {
    Command::new("sh")
        .args(["-c", &format!(r#"{first}; exec "$0" "$@""#)])
        .arg(env!("CARGO_BIN_EXE_halo"))
        .args(["model", "import", "--weights", "f32", "--embedding", "q4"])
        .args([SOURCE, "tiny"])
        .current_dir(folder)
        .output()
        .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn a_killed_import_leaves_nothing_that_looks_whole() {
    let folder = TempDir::new().unwrap();
    // The signal for a file that grows too large ends the process at once, as SIGKILL does, in the middle of a layer.
    let killed = import(folder.path(), "ulimit -c 0; ulimit -f 1024");
    assert!(killed.status.signal().is_some(), "{killed:?}");
    let left = names(folder.path());
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with(".halo-import-"), "{left:?}");
    let left = folder.path().join(&left[0]);
    assert!(names(&left).contains(&"layer-000.safetensors".to_owned()));
    assert!(Package::open(&left).is_err());

    let whole = import(folder.path(), ":");
    assert!(whole.status.success(), "{whole:?}");
    assert_eq!(names(folder.path()), ["tiny"]);
    let package = Package::open(&folder.path().join("tiny")).unwrap();
    package.verify(|_, _| ()).unwrap();
}

#[test]
fn a_full_disk_is_told_with_the_file() {
    let folder = TempDir::new().unwrap();
    let failed = import(folder.path(), "trap '' XFSZ; ulimit -f 1024");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(message.contains("layer-000.safetensors: "), "{message}");
    assert!(names(folder.path()).is_empty());
}
