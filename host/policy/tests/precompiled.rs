//! What is compiled once is not compiled again, and nothing else is taken for it.

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use common::{builtin, devices, model};
use halo_policy::{Limits, Sandbox, SchedulerSlot};
use tempfile::TempDir;

/// A sandbox such as each new process makes.
fn sandbox(folder: &Path) -> Sandbox {
    Sandbox::keeping(Limits::default(), Some(folder.to_owned())).unwrap()
}

/// Whether a process that starts now finds `name` compiled.
fn is_kept(folder: &Path, name: &str) -> bool {
    builtin(&sandbox(folder), name).precompiled()
}

/// A folder with one compiled policy, and its file.
fn kept() -> (TempDir, PathBuf, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("cache/policies");
    assert!(!is_kept(&folder, "scheduler-even"));
    let file = files(&folder).remove(0);
    (parent, folder, file)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_second_start_compiles_nothing() {
    let (_parent, folder, file) = kept();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));

    let later = sandbox(&folder);
    let loaded = builtin(&later, "scheduler-even");
    assert!(loaded.precompiled());
    assert!(
        !builtin(&later, "scheduler-halo").precompiled(),
        "another policy is compiled"
    );
    // It is the same policy.
    let fresh = Sandbox::new(Limits::default()).unwrap();
    let compiled = builtin(&fresh, "scheduler-even");
    assert_eq!(loaded.imports(), compiled.imports());
    let place = |sandbox: &Sandbox, component| {
        let slot = SchedulerSlot::new(sandbox);
        slot.activate(component, &[]).unwrap();
        slot.place(&model(), &devices(), None).value
    };
    assert_eq!(place(&later, &loaded), place(&fresh, &compiled));
}

#[test]
fn a_damaged_file_is_not_run_and_is_replaced() {
    let (_parent, folder, file) = kept();
    let whole = fs::read(&file).unwrap();
    let flipped = (0..8).map(|part| {
        let mut bytes = whole.clone();
        bytes[part * whole.len() / 8 + 7] ^= 1;
        bytes
    });
    let torn = [0, 10, 32, 33, whole.len() - 1].map(|length| whole[..length].to_vec());
    for damaged in flipped.chain(torn) {
        fs::write(&file, damaged).unwrap();
        assert!(!is_kept(&folder, "scheduler-even"));
        assert_eq!(fs::read(&file).unwrap(), whole);
        assert!(is_kept(&folder, "scheduler-even"));
    }
}

#[test]
fn a_policy_is_not_taken_for_another() {
    let (_parent, folder, even) = kept();
    assert!(!is_kept(&folder, "scheduler-halo"));
    let halo = files(&folder).into_iter().find(|path| *path != even);
    fs::copy(&even, halo.unwrap()).unwrap();
    assert!(!is_kept(&folder, "scheduler-halo"));
}

#[test]
fn what_others_may_have_written_is_not_run() {
    let (_parent, folder, file) = kept();
    for path in [&folder, &file] {
        let before = fs::metadata(path).unwrap().permissions();
        for mode in [0o722, 0o702, 0o720] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            let compiled = sandbox(&folder);
            assert!(!builtin(&compiled, "scheduler-even").precompiled());
            if path == &file {
                // It has been replaced.
                assert_eq!(fs::metadata(path).unwrap().permissions(), before);
            }
        }
        fs::set_permissions(path, before).unwrap();
        assert!(is_kept(&folder, "scheduler-even"));
    }
}

#[test]
fn without_a_folder_to_write_to_everything_is_compiled() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Below a file, and in a file system that takes none.
    for folder in [file.path().join("policies"), "/proc/policies".into()] {
        for _ in 0..2 {
            assert!(!is_kept(&folder, "scheduler-even"), "{folder:?}");
        }
    }
}

#[test]
fn the_latest_few_are_kept() {
    let (_parent, folder, first) = kept();
    let old = fs::File::options().write(true).open(&first).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let sandbox = sandbox(&folder);
    for number in 0..20 {
        let text = format!(r#"(component (instance $i) (export "n{number}" (instance $i)))"#);
        // Compiled, and found to be no policy.
        let component = wat::parse_str(text).unwrap();
        sandbox.compile("sample", &component).unwrap_err();
    }
    assert_eq!(files(&folder).len(), 16);
    assert!(!first.exists());
}
