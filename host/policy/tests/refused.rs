//! Bytes that are no policies, and what a store does with names.

mod common;

use std::fs;

use common::{builtin, sandbox};
use halo_policy::{Digest, Kind, Limits, Origin, PolicyError, PolicyStore, Sandbox};

fn refusal(text: &str) -> PolicyError {
    let bytes = wat::parse_str(text).unwrap();
    sandbox().compile("sample", &bytes).unwrap_err()
}

#[test]
fn bytes_that_are_not_webassembly() {
    let sandbox = sandbox();
    for bytes in [&b""[..], b"\0as", b"#!/bin/sh", &[0xff; 100]] {
        let error = sandbox.compile("sample", bytes).unwrap_err();
        assert!(matches!(error, PolicyError::NotWasm { .. }), "{error}");
    }
    let error = sandbox.compile("sample", b"#!/bin/sh").unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy \"sample\" is not WebAssembly: it begins with [23, 21, 2f, 62] instead of [00, 61, 73, 6d]; \
         `cargo xtask policies` makes components"
    );
}

#[test]
fn damaged_components() {
    let sandbox = sandbox();
    let bytes = PolicyStore::builtin().get("scheduler-even").unwrap().bytes;
    for length in (8..bytes.len()).step_by(997) {
        let error = sandbox.compile("sample", &bytes[..length]).unwrap_err();
        let expected = matches!(
            error,
            PolicyError::Invalid { .. } | PolicyError::NoWorld { .. }
        );
        assert!(expected, "{length}: {error}");
        // A torn file may still say what it was.
        let _ = Kind::of(&bytes[..length]);
    }
    for at in (8..bytes.len()).step_by(1009) {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x55;
        // Some bytes do not matter to validity; none may do harm.
        let _ = sandbox.compile("sample", &bytes);
        let _ = Kind::of(&bytes);
    }
}

#[test]
fn a_core_module_is_told_how_to_become_a_component() {
    let error = refusal("(module)");
    assert!(matches!(error, PolicyError::CoreModule { .. }));
    assert!(
        error.to_string().contains("wasm-tools component new"),
        "{error}"
    );
}

#[test]
fn an_import_that_policies_do_not_get() {
    for import in [
        "acme:net/socket@1.0.0",
        "wasi:http/types@0.2.0",
        "halo:policy/host@9.0.0",
        "env",
    ] {
        let error = refusal(&format!("(component (import {import:?} (instance)))"));
        let PolicyError::UnknownImport { import: found, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(found, import);
        assert!(error.to_string().contains(import), "{error}");
    }
}

#[test]
fn a_component_of_no_world_or_of_another_version() {
    let error = refusal("(component)");
    assert!(error.to_string().ends_with("it exports nothing"), "{error}");
    let exporting = |interface: &str| {
        refusal(&format!(
            "(component (instance $i) (export {interface:?} (instance $i)))"
        ))
    };
    let error = exporting("acme:thing/other@1.0.0");
    assert!(
        error
            .to_string()
            .ends_with("it exports acme:thing/other@1.0.0"),
        "{error}"
    );
    let error = exporting("halo:policy/scheduler@0.2.0");
    assert!(
        error.to_string().contains("built for halo:policy 0.2.0"),
        "{error}"
    );
    // The right name alone is not enough.
    let error = exporting("halo:policy/scheduler@0.1.0");
    assert!(matches!(error, PolicyError::Mismatch { .. }), "{error}");
}

#[test]
fn a_component_that_is_too_large() {
    let limits = Limits {
        component: 1000,
        ..Limits::default()
    };
    let bytes = PolicyStore::builtin().get("scheduler-even").unwrap().bytes;
    let error = Sandbox::new(limits)
        .unwrap()
        .compile("sample", &bytes)
        .unwrap_err();
    assert!(
        matches!(error, PolicyError::TooLarge { limit: 1000, .. }),
        "{error}"
    );
}

#[test]
fn what_is_saved_is_found_by_name_and_by_digest() {
    let folder = tempfile::tempdir().unwrap();
    let store = PolicyStore::with_folder(folder.path().join("policies"));
    let before = store.list().unwrap();
    let saved = store.save(b"not checked here", "mine").unwrap();
    assert_eq!(saved.digest, Digest::of(b"not checked here"));
    assert_eq!(store.get("mine").unwrap(), saved);
    assert_eq!(store.get(&saved.digest.to_string()).unwrap(), saved);
    assert_eq!(store.get(&saved.digest.short()).unwrap(), saved);
    assert_eq!(store.list().unwrap().len(), before.len() + 1);
    let files = || {
        let files = fs::read_dir(folder.path().join("policies")).unwrap();
        files.count()
    };
    // Saved again, nothing changes.
    store.save(b"not checked here", "mine").unwrap();
    assert_eq!(files(), 1);
    // Of another version, the earlier one is still there, by its digest.
    let first = saved.digest;
    let saved = store.save(b"again", "mine").unwrap();
    assert_eq!(store.get("mine").unwrap().bytes, saved.bytes);
    assert_eq!(
        &*store.get(&first.to_string()).unwrap().bytes,
        b"not checked here"
    );
    assert_eq!(
        store
            .get(&format!("mine.{}", first.short()))
            .unwrap()
            .digest,
        first
    );
    assert_eq!(files(), 2);
    // Files that are no policies are left alone.
    fs::write(folder.path().join("policies/notes.txt"), "x").unwrap();
    assert_eq!(store.list().unwrap().len(), before.len() + 2);
    saved.verify(Digest::of(b"again")).unwrap();
    assert!(matches!(
        saved.verify(Digest::of(b"")),
        Err(PolicyError::WrongDigest { .. })
    ));
}

#[test]
fn four_earlier_versions_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = PolicyStore::with_folder(folder.path());
    let old = std::time::SystemTime::UNIX_EPOCH;
    for version in 0..7u8 {
        let saved = store.save(&[version], "mine").unwrap();
        let Origin::File(path) = saved.origin else {
            panic!("it is saved in a file")
        };
        // Whatever the file system's clock resolves.
        let time = old + std::time::Duration::from_secs(version.into());
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }
    let kept = |version: u8| store.get(&Digest::of(&[version]).to_string()).is_ok();
    assert_eq!(
        (0..7).map(kept).collect::<Vec<_>>(),
        [false, false, true, true, true, true, true]
    );
    // Another policy's, though its name begins the same.
    store.save(b"other", "mine.other").unwrap();
    store.save(&[7], "mine").unwrap();
    assert!(store.get("mine.other").is_ok());
}

#[test]
fn a_file_hides_the_built_in_policy_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = PolicyStore::with_folder(folder.path());
    let builtin = store.get("scheduler-even").unwrap();
    assert_eq!(builtin.origin, Origin::Builtin);
    store.save(b"mine", "scheduler-even").unwrap();
    assert_eq!(&*store.get("scheduler-even").unwrap().bytes, b"mine");
    // The other is still there, by its digest; and the same bytes twice are not ambiguous.
    assert_eq!(
        store.get(&builtin.digest.short()).unwrap().bytes,
        builtin.bytes
    );
    store.save(&builtin.bytes, "copy").unwrap();
    assert_eq!(
        store.get(&builtin.digest.short()).unwrap().bytes,
        builtin.bytes
    );
}

#[test]
fn names_and_digests_that_are_not_there() {
    let store = PolicyStore::builtin();
    let error = store.get("scheduler").unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no policy \"scheduler\"; there are: predictor-probe, predictor-static, scheduler-even, scheduler-halo"
    );
    // Too short for a digest.
    let digest = store.get("scheduler-even").unwrap().digest.to_string();
    assert!(matches!(
        store.get(&digest[..5]),
        Err(PolicyError::NotFound { .. })
    ));
    assert!(matches!(
        store.save(b"", "mine"),
        Err(PolicyError::NoFolder { .. })
    ));
    let folder = tempfile::tempdir().unwrap();
    let store = PolicyStore::with_folder(folder.path());
    for name in ["", ".hidden", "../up", "a/b", "a b", &"x".repeat(65)] {
        assert!(
            matches!(store.save(b"", name), Err(PolicyError::BadName { .. })),
            "{name:?}"
        );
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn compiling_reports_what_it_saw() {
    let component = builtin(&sandbox(), "scheduler-halo");
    assert_eq!(component.name(), "scheduler-halo");
    assert_eq!(component.exports(), ["halo:policy/scheduler@0.1.0"]);
    assert!(
        component
            .imports()
            .iter()
            .any(|import| import.starts_with("halo:policy/types"))
    );
}
