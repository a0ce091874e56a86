//! Packages in pieces: whole, interrupted, damaged, and where there is no room.

use std::fs;
use std::path::Path;

use crate::model::tiny;
use halo_models::{Download, DownloadError, PIECE_BYTES, Package, PackageCache, PieceList};
use serde_json::Value;
use tempfile::TempDir;

fn source() -> (Package, PieceList) {
    let package = Package::open(&tiny()).unwrap();
    let list = PieceList::of(&package, |_, _| ()).unwrap();
    (package, list)
}

fn cache() -> (TempDir, PackageCache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = PackageCache::new(folder.path().join("cache"), None);
    (folder, cache)
}

/// Adds so many pieces, and gives how many that were.
fn add(download: &mut Download, from: &Package, most: usize) -> usize {
    for added in 0..most {
        let Some((file, piece)) = download.next() else {
            return added;
        };
        let bytes = from.piece(file, piece).unwrap();
        download.add(&bytes).unwrap();
    }
    most
}

/// What is in a folder, by name.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The folder of the one download that is under way.
fn partial(folder: &Path) -> std::path::PathBuf {
    let names = names(&folder.join("cache"));
    let [name] = &names[..] else {
        panic!("{names:?}")
    };
    assert!(name.starts_with(".halo-download-"), "{name}");
    folder.join("cache").join(name)
}

#[test]
fn a_package_arrives_whole_and_is_found_again() {
    let (package, list) = source();
    let (folder, cache) = cache();
    let (digest, total) = (list.digest(), list.total_bytes());
    assert!(cache.find("tiny", &digest).unwrap().is_none());
    let travelled = PieceList::parse(list.bytes().to_vec()).unwrap();
    assert_eq!(travelled.digest(), digest);
    let mut download = Download::begin(&cache, travelled).unwrap();
    assert_eq!(download.done(), 0);
    let pieces = add(&mut download, &package, usize::MAX);
    assert!(pieces as u64 >= total.div_ceil(PIECE_BYTES as u64));
    assert_eq!(download.done(), total);
    let arrived = download.finish().unwrap();
    assert_eq!(arrived.identity(), package.identity());
    assert_eq!(
        names(&folder.path().join("cache")),
        [format!("tiny-{}", &digest[..16])]
    );
    // Whoever has it can give it under the same digest.
    let again = PieceList::of(&arrived, |_, _| ()).unwrap();
    assert_eq!(again.digest(), digest);
    let found = cache.find("tiny", &digest).unwrap().unwrap();
    assert_eq!(found.dir(), arrived.dir());
    assert!(cache.served_last().is_none());
    cache.note_served(&package).unwrap();
    assert!(cache.served_last().is_none(), "it is not in the cache");
    cache.note_served(&arrived).unwrap();
    assert_eq!(cache.served_last().unwrap().dir(), arrived.dir());
}

#[test]
fn what_was_interrupted_goes_on_at_the_piece() {
    let (package, list) = source();
    let (folder, cache) = cache();
    let mut download = Download::begin(&cache, list.clone()).unwrap();
    // All of the calibration, and some of the embedding.
    add(&mut download, &package, 4);
    let (done, next) = (
        download.done(),
        download.next().map(|(f, p)| (f.to_owned(), p)),
    );
    assert!(matches!(
        Download::begin(&cache, list.clone()),
        Err(DownloadError::Busy { .. })
    ));
    assert!(cache.find("tiny", &list.digest()).unwrap().is_none());
    drop(download);
    // As a process leaves it that is killed in the middle of writing.
    let (file, piece) = next.unwrap();
    let torn = partial(folder.path()).join(&file);
    let mut bytes = fs::read(&torn).unwrap();
    bytes.extend([7; 1000]);
    fs::write(&torn, &bytes).unwrap();
    let download = Download::begin(&cache, list.clone()).unwrap();
    assert_eq!(download.done(), done);
    assert_eq!(download.next(), Some((file.as_str(), piece)));
    drop(download);
    // As a power cut leaves it: a file has its length, and not its content.
    let first = partial(folder.path()).join("calibration.safetensors");
    fs::write(
        &first,
        vec![0; fs::metadata(&first).unwrap().len() as usize],
    )
    .unwrap();
    let mut download = Download::begin(&cache, list).unwrap();
    assert_eq!(download.done(), 0);
    add(&mut download, &package, usize::MAX);
    let arrived = download.finish().unwrap();
    assert_eq!(arrived.identity(), package.identity());
}

#[test]
fn a_damaged_piece_is_as_if_it_had_not_come() {
    let (package, list) = source();
    let (_folder, cache) = cache();
    let mut download = Download::begin(&cache, list).unwrap();
    add(&mut download, &package, 3);
    let (file, piece) = download.next().map(|(f, p)| (f.to_owned(), p)).unwrap();
    let right = package.piece(&file, piece).unwrap();
    let mut flipped = right.clone();
    flipped[right.len() / 2] ^= 1;
    let done = download.done();
    for wrong in [&flipped[..], &right[1..], &[], &[&right[..], &[0]].concat()] {
        let error = download.add(wrong).unwrap_err();
        let expected = format!("piece {piece} of {file} has SHA-256 ");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(download.done(), done);
    }
    download.add(&right).unwrap();
    add(&mut download, &package, usize::MAX);
    download.finish().unwrap();
}

#[test]
fn there_must_be_room() {
    let (package, list) = source();
    let (folder, _) = cache();
    let total = list.total_bytes();
    let cache = |limit| PackageCache::new(folder.path().join("cache"), Some(limit));
    let error = Download::begin(&cache(total - 1), list.clone()).unwrap_err();
    assert!(
        matches!(error, DownloadError::Limit { needed, .. } if needed == total),
        "{error}"
    );
    let mut download = Download::begin(&cache(total), list.clone()).unwrap();
    add(&mut download, &package, usize::MAX);
    let arrived = download.finish().unwrap();
    // What is there counts.
    let other = fs::read(arrived.dir().join("manifest.json")).unwrap();
    let mut other: Value = serde_json::from_slice(&other).unwrap();
    other["source"] = "elsewhere".into();
    let elsewhere = folder.path().join("other");
    fs::create_dir(&elsewhere).unwrap();
    for name in names(arrived.dir()) {
        fs::copy(arrived.dir().join(&name), elsewhere.join(&name)).unwrap();
    }
    fs::write(elsewhere.join("manifest.json"), other.to_string()).unwrap();
    let other = Package::open(&elsewhere).unwrap();
    let other = PieceList::of(&other, |_, _| ()).unwrap();
    let error = Download::begin(&cache(2 * total), other).unwrap_err();
    assert!(matches!(error, DownloadError::Limit { .. }), "{error}");
}

#[test]
fn lists_are_read_with_suspicion() {
    let (package, list) = source();
    let json: Value = serde_json::from_slice(list.bytes()).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut json = json.clone();
        change(&mut json);
        PieceList::parse(json.to_string().into_bytes()).unwrap_err()
    };
    let pieces = |json: &mut Value| json["pieces"].as_object_mut().unwrap().clone();
    assert!(PieceList::parse(b"{}".to_vec()).is_err());
    let error = refused(&|json| json["manifest"] = "{}".into());
    assert!(error.contains("manifest.json"), "{error}");
    let error = refused(&|json| {
        let mut all = pieces(json);
        all.insert("../../evil".into(), Value::Array(Vec::new()));
        json["pieces"] = Value::Object(all);
    });
    assert!(error.contains("not those of its manifest"), "{error}");
    let error = refused(&|json| {
        drop(
            json["pieces"]["tokenizer.json"]
                .as_array_mut()
                .unwrap()
                .pop(),
        )
    });
    assert!(error.contains("pieces of `tokenizer.json`"), "{error}");
    let error = refused(&|json| {
        let manifest = json["manifest"].as_str().unwrap();
        let mut manifest: Value = serde_json::from_str(manifest).unwrap();
        manifest["files"]["tokenizer.json"]["bytes"] = u64::MAX.into();
        json["manifest"] = manifest.to_string().into();
    });
    assert!(error.contains("18446744073709551615 bytes"), "{error}");
    assert!(package.piece("../tiny/manifest.json", 0).is_err());
    assert!(package.piece("manifest.json", 0).is_err());
    assert_eq!(package.piece("tokenizer.json", u64::MAX).unwrap(), b"");
}

#[test]
fn a_list_that_its_manifest_contradicts_makes_no_package() {
    let (package, list) = source();
    let (folder, cache) = cache();
    // A giver that knows what it does: the list fits the pieces, and neither fits the manifest's hash.
    let mut json: Value = serde_json::from_slice(list.bytes()).unwrap();
    let manifest = json["manifest"].as_str().unwrap();
    let mut manifest: Value = serde_json::from_str(manifest).unwrap();
    manifest["files"]["tokenizer.json"]["sha256"] = "0".repeat(64).into();
    json["manifest"] = manifest.to_string().into();
    let list = PieceList::parse(json.to_string().into_bytes()).unwrap();
    let mut download = Download::begin(&cache, list).unwrap();
    add(&mut download, &package, usize::MAX);
    let error = download.finish().unwrap_err().to_string();
    assert!(error.contains("tokenizer.json has SHA-256"), "{error}");
    assert_eq!(names(&folder.path().join("cache")), [""; 0]);
}

#[test]
fn a_damaged_package_is_not_given() {
    let folder = tempfile::tempdir().unwrap();
    for name in names(&tiny()) {
        fs::copy(tiny().join(&name), folder.path().join(&name)).unwrap();
    }
    let path = folder.path().join("layer-003.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let package = Package::open(folder.path()).unwrap();
    let error = PieceList::of(&package, |_, _| ()).unwrap_err().to_string();
    assert!(
        error.contains("layer-003.safetensors has SHA-256"),
        "{error}"
    );
}
