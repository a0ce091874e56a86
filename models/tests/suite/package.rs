//! Opening packages: sound ones, and ones that are damaged in every way we can think of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::model::*;
use halo_models::{Array, Calibration, ImportOptions, Package, PackageError, WeightFormat};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn package(options: &ImportOptions) -> (TempDir, PathBuf) {
    let (dir, package) = Model::new().import(options);
    let path = package.unwrap().dir().to_path_buf();
    (dir, path)
}

/// Replaces a file and makes the manifest agree with its length, so that its content is looked at.
fn put(package: &Path, name: &str, bytes: &[u8]) {
    fs::write(package.join(name), bytes).unwrap();
    edit_manifest(package, |manifest| {
        manifest["files"][name]["bytes"] = json!(bytes.len())
    });
}

fn edit_manifest(package: &Path, change: impl FnOnce(&mut Value)) {
    let path = package.join("manifest.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

fn refusal(package: &Path) -> String {
    let message = Package::open(package).unwrap_err().to_string();
    message.replace(&format!("{}/", package.display()), "")
}

/// The tensors of a file, to be changed and written again.
fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.iter().map(|(name, view)| {
        let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), tensor)
    });
    all.collect()
}

#[test]
fn the_default_package_is_sound() {
    let package = Package::open(&tiny()).unwrap();
    assert_eq!(
        (package.name(), package.groups(), package.group_size()),
        ("tiny", 24, 32)
    );
    assert_eq!(package.manifest().architecture, "llama");
    let mut last = (0, 0);
    package.verify(|done, total| last = (done, total)).unwrap();
    let bytes = package
        .manifest()
        .files
        .values()
        .map(|file| file.bytes)
        .sum::<u64>();
    assert_eq!(last, (bytes, bytes));
    assert_eq!(package.identity().len(), 64);
    let embedding = package.head().dequantise();
    let mut row = vec![0.0; 256];
    package.embedding(7, &mut row).unwrap();
    assert_eq!(row, embedding[7 * 256..8 * 256]);
    let beyond = package.embedding(2048, &mut row).unwrap_err();
    assert_eq!(
        beyond.to_string(),
        "token 2048 is beyond the model's vocabulary of 2048"
    );
    for layer in 0..6 {
        (0..24).for_each(|group| package.group_region(layer, group).prefetch());
    }
}

#[test]
fn a_folder_that_is_no_package() {
    let dir = TempDir::new().unwrap();
    let message = Package::open(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("is not a model package: it has no manifest.json"),
        "{message}"
    );
}

/// A change to a manifest.
type Change<'a> = &'a dyn Fn(&mut Value);

#[test]
fn manifests_that_are_refused() {
    let (_dir, path) = package(&ImportOptions::default());
    let whole = fs::read(path.join("manifest.json")).unwrap();
    let hash = "0".repeat(64);
    let cases: [(&str, Change<'_>); 15] = [
        (
            "package format 2, but this build reads format 1; import the model again",
            &|m| m["format"] = json!(2),
        ),
        ("architecture `rwkv` is not supported, only `llama`", &|m| {
            m["architecture"] = json!("rwkv")
        }),
        ("`../up` is not a model name", &|m| {
            m["name"] = json!("../up")
        }),
        ("layers is 0, but must be between 1 and 1024", &|m| {
            m["shape"]["layers"] = json!(0)
        }),
        ("width is 1152921504606846976", &|m| {
            m["shape"]["width"] = json!(1u64 << 60)
        }),
        ("`layer-002.safetensors` is not listed", &|m| {
            m["shape"]["layers"] = json!(3)
        }),
        (
            "`layer-001.safetensors` is listed, but is no file of a package of 1 layers",
            &|m| m["shape"]["layers"] = json!(1),
        ),
        ("`../secret` is listed, but is no file of a package", &|m| {
            m["files"]["../secret"] = json!({"bytes": 1, "sha256": hash})
        }),
        ("the hash of `tokenizer.json` is not 64", &|m| {
            m["files"]["tokenizer.json"]["sha256"] = json!("ABC")
        }),
        (
            "96 feed-forward neurons cannot be divided into groups of 0",
            &|m| m["group_size"] = json!(0),
        ),
        (
            "96 feed-forward neurons cannot be divided into groups of 36",
            &|m| m["group_size"] = json!(36),
        ),
        ("q4:0: the block size is not a power of two", &|m| {
            m["quantisation"]["weights"]["block"] = json!(0)
        }),
        ("unknown variant `q3`", &|m| {
            m["quantisation"]["weights"] = json!({"format": "q3"})
        }),
        ("missing field `files`", &|m| {
            drop(m.as_object_mut().unwrap().remove("files"))
        }),
        ("unknown field `extra`", &|m| m["extra"] = json!(1)),
    ];
    for (expected, change) in cases {
        fs::write(path.join("manifest.json"), &whole).unwrap();
        edit_manifest(&path, change);
        let message = refusal(&path);
        assert!(
            message.starts_with("manifest.json: ") && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn a_changed_byte_is_found() {
    let (_dir, path) = package(&ImportOptions::default());
    for name in [
        "embedding.safetensors",
        "layer-001.safetensors",
        "tokenizer.json",
    ] {
        let whole = fs::read(path.join(name)).unwrap();
        let mut bytes = whole.clone();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path.join(name), bytes).unwrap();
        let failure = Package::open(&path).unwrap().verify(|_, _| ()).unwrap_err();
        assert!(
            matches!(&failure, PackageError::Hash { path: file, .. } if *file == path.join(name)),
            "{failure}"
        );
        fs::write(path.join(name), whole).unwrap();
    }
    Package::open(&path).unwrap().verify(|_, _| ()).unwrap();
}

#[test]
fn values_that_no_weight_can_have_are_found() {
    let options = ImportOptions {
        embedding: Some(WeightFormat::F16),
        ..ImportOptions::default()
    };
    let (_dir, path) = package(&options);
    let refusal_with = |file: &str, tensor: &str, at: usize, value: &[u8]| {
        let sound = fs::read(path.join(file)).unwrap();
        let mut all = tensors(&path.join(file));
        let bytes = &mut all.get_mut(tensor).unwrap().2;
        bytes[at..at + value.len()].copy_from_slice(value);
        fs::write(path.join(file), serialize(all.iter())).unwrap();
        adopt(&path, file);
        let message = Package::open(&path).unwrap().verify(|_, _| ()).unwrap_err();
        fs::write(path.join(file), sound).unwrap();
        adopt(&path, file);
        message
            .to_string()
            .replace(&format!("{}/", path.display()), "")
    };
    let layer = "layer-001.safetensors";
    let not_finite = "a value that is not a finite number, at";
    for (file, tensor, at, value, expected) in [
        (
            layer,
            "feed_forward.up.scales",
            28,
            &f32::NAN.to_le_bytes()[..],
            format!("{not_finite} 7"),
        ),
        (
            layer,
            "attention.norm",
            4,
            &f32::INFINITY.to_le_bytes()[..],
            format!("{not_finite} 1"),
        ),
        (
            "embedding.safetensors",
            "embedding",
            18,
            &[0, 0xfc],
            format!("{not_finite} 9"),
        ),
        (
            layer,
            "attention.key.zero_points",
            5,
            &[16],
            "a zero point above 15, at 5".into(),
        ),
    ] {
        let message = refusal_with(file, tensor, at, value);
        let prefix = format!("{file}: tensor `{tensor}` holds {expected}; ");
        assert!(message.starts_with(&prefix), "{message}");
    }
}

/// Makes the manifest agree with a file that was changed.
fn adopt(package: &Path, name: &str) {
    let bytes = fs::read(package.join(name)).unwrap();
    let digest = Sha256::digest(&bytes);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    edit_manifest(package, |manifest| {
        manifest["files"][name] = json!({"bytes": bytes.len(), "sha256": hex});
    });
}

#[test]
fn the_tokenizer_and_the_calibration_are_read() {
    let (_dir, path) = package(&ImportOptions::default());
    let package = Package::open(&path).unwrap();
    package.with_calibration(&Calibration::default()).unwrap();
    let failure = || {
        let found = Package::open(&path).unwrap().verify(|_, _| ());
        let message = found.unwrap_err().to_string();
        message.replace(&format!("{}/", path.display()), "")
    };
    let weights = fs::read(path.join("calibration.safetensors")).unwrap();
    fs::write(path.join("calibration.safetensors"), &weights[1..]).unwrap();
    adopt(&path, "calibration.safetensors");
    let expected = "calibration.safetensors is not a whole safetensors file: ";
    assert!(failure().starts_with(expected), "{}", failure());
    let mut model = Model::new();
    model.tokenizer["model"]["vocab"]["t40"] = json!(40);
    fs::write(path.join("tokenizer.json"), model.tokenizer.to_string()).unwrap();
    adopt(&path, "tokenizer.json");
    let expected = "tokenizer.json: token 40 is beyond the model's vocabulary of 40; ";
    assert!(failure().starts_with(expected), "{}", failure());
}

#[test]
fn damaged_weight_files_are_refused() {
    let (_dir, path) = package(&ImportOptions::default());
    let name = "layer-001.safetensors";
    let whole = fs::read(path.join(name)).unwrap();
    fs::write(path.join(name), &whole[1..]).unwrap();
    assert_eq!(
        refusal(&path),
        format!(
            "{name} has {} bytes, but the manifest says {}; copy or import the package again",
            whole.len() - 1,
            whole.len()
        )
    );
    let oversized = [&u64::MAX.to_le_bytes(), &whole[8..]].concat();
    for bytes in [
        &whole[1..],
        &whole[..whole.len() - 1],
        &whole[..5],
        b"",
        &oversized,
    ] {
        put(&path, name, bytes);
        let message = refusal(&path);
        assert!(
            message.starts_with("layer-001.safetensors is not a whole safetensors file: "),
            "{message}"
        );
    }
    fs::remove_file(path.join(name)).unwrap();
    assert_eq!(
        refusal(&path),
        "layer-001.safetensors is missing; copy or import the package again"
    );
}

#[test]
fn every_tensor_is_checked_before_use() {
    let (_dir, path) = package(&ImportOptions::default());
    for file in ["embedding.safetensors", "layer-000.safetensors"] {
        let sound = tensors(&path.join(file));
        assert!(sound.len() == if file.starts_with("layer") { 23 } else { 4 });
        for name in sound.keys() {
            let refusal_with = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
                let mut changed = sound.clone();
                change(&mut changed);
                put(&path, file, &serialize(changed.iter()));
                refusal(&path)
            };
            let prefix = format!("{file}: tensor `{name}` ");
            let missing = refusal_with(&|all| drop(all.remove(name)));
            assert_eq!(missing, format!("{prefix}is missing"));
            let dtype = refusal_with(&|all| {
                let tensor = all.get_mut(name).unwrap();
                tensor.0 = match tensor.0 {
                    Dtype::U8 => Dtype::I8,
                    Dtype::F16 => Dtype::BF16,
                    _ => Dtype::I32,
                };
            });
            assert!(dtype.starts_with(&format!("{prefix}is ")), "{dtype}");
            let shape = refusal_with(&|all| all.get_mut(name).unwrap().1.push(1));
            assert!(shape.starts_with(&format!("{prefix}has shape ")), "{shape}");
        }
        put(&path, file, &serialize(sound.iter()));
    }
    Package::open(&path).unwrap().verify(|_, _| ()).unwrap();
}

#[test]
fn calibration_is_stored_and_replaced() {
    let (_dir, path) = package(&ImportOptions::default());
    let package = Package::open(&path).unwrap();
    assert_eq!(package.calibration().unwrap(), None);
    let calibration = |value: f32| Calibration {
        arrays: BTreeMap::from([
            (
                "importance".to_owned(),
                Array {
                    shape: vec![2, 3],
                    values: vec![value; 6],
                },
            ),
            (
                "empty".to_owned(),
                Array {
                    shape: vec![0],
                    values: vec![],
                },
            ),
        ]),
    };
    let first = package.with_calibration(&calibration(1.5)).unwrap();
    assert_eq!(first.calibration().unwrap(), Some(calibration(1.5)));
    let second = first.with_calibration(&calibration(-2.0)).unwrap();
    assert_eq!(second.calibration().unwrap(), Some(calibration(-2.0)));
    second.verify(|_, _| ()).unwrap();
    // Calibrating does not make another model of it.
    assert_eq!(second.identity(), package.identity());
    assert_eq!(Package::open(&path).unwrap().manifest(), second.manifest());

    let mut bytes = fs::read(path.join("calibration.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path.join("calibration.safetensors"), bytes).unwrap();
    let failure = second.calibration().unwrap_err();
    assert!(matches!(failure, PackageError::Hash { .. }), "{failure}");
}

#[test]
fn calibration_that_is_refused() {
    let (_dir, path) = package(&ImportOptions::default());
    let package = Package::open(&path).unwrap();
    let refusal = |name: &str, shape: &[usize], values: &[f32]| {
        let array = Array {
            shape: shape.into(),
            values: values.into(),
        };
        let calibration = Calibration {
            arrays: BTreeMap::from([(name.to_owned(), array)]),
        };
        package
            .with_calibration(&calibration)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refusal("a", &[2], &[0.0, f32::NAN]),
        "calibration array `a`: value 1 is not a finite number"
    );
    assert_eq!(
        refusal("a", &[3], &[0.0, 1.0]),
        "calibration array `a`: 2 values do not fill shape [3]"
    );
    assert_eq!(
        refusal("a", &[usize::MAX, usize::MAX], &[]),
        format!(
            "calibration array `a`: 0 values do not fill shape [{0}, {0}]",
            usize::MAX
        )
    );
    for name in ["", "__metadata__"] {
        assert_eq!(
            refusal(name, &[1], &[0.0]),
            format!("calibration array `{name}`: not a name an array can have")
        );
    }
    assert!(!path.join("calibration.safetensors").exists());
}

/// Opens a package and, if it opens, reads everything in it. Gives how many values that were.
fn exercise(path: &Path) -> usize {
    let Ok(package) = Package::open(path) else {
        return 0;
    };
    let mut values = package.head().dequantise().len();
    for layer in 0..package.shape().layers {
        let attention = package.attention(layer);
        values += attention.norm.len() + package.feed_forward_norm(layer).len();
        for matrix in [
            attention.query,
            attention.key,
            attention.value,
            attention.output,
        ] {
            values += matrix.dequantise().len();
        }
        for group in 0..package.groups() {
            package.group_region(layer, group).prefetch();
            let group = package.group(layer, group);
            for matrix in [group.gate, group.up, group.down] {
                values += matrix.dequantise().len();
            }
        }
    }
    let _ = (
        package.verify(|_, _| ()),
        package.tokenizer().err(),
        package.calibration().err(),
    );
    values
}

#[test]
fn exercising_a_sound_package_reads_every_weight() {
    let (_dir, path) = package(&ImportOptions::default());
    let model = Model::new();
    let stored = model
        .tensors
        .values()
        .map(|(_, shape, _)| shape.iter().product::<usize>());
    // All but the final norm.
    assert_eq!(exercise(&path), stored.sum::<usize>() - WIDTH);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_as_a_weight_file(bytes in prop::collection::vec(any::<u8>(), 0..512), header in any::<bool>()) {
        let (_dir, path) = package(&ImportOptions::default());
        let bytes = if header {
            // A length that fits, so that the header is parsed.
            [&(bytes.len() as u64).to_le_bytes(), bytes.as_slice()].concat()
        } else {
            bytes
        };
        put(&path, "layer-000.safetensors", &bytes);
        prop_assert!(Package::open(&path).is_err());
    }

    #[test]
    fn any_change_to_a_weight_file(changes in prop::collection::vec((0usize..4096, any::<u8>()), 1..8)) {
        let (_dir, path) = package(&ImportOptions::default());
        let mut bytes = fs::read(path.join("layer-000.safetensors")).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        put(&path, "layer-000.safetensors", &bytes);
        exercise(&path);
    }

    #[test]
    fn any_change_to_a_manifest(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"0159.-e\"{}[],:".to_vec())), 1..4),
    ) {
        let (_dir, path) = package(&ImportOptions::default());
        let mut bytes = fs::read(path.join("manifest.json")).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(path.join("manifest.json"), bytes).unwrap();
        exercise(&path);
    }

    #[test]
    fn any_bytes_as_a_manifest(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let (_dir, path) = package(&ImportOptions::default());
        fs::write(path.join("manifest.json"), bytes).unwrap();
        prop_assert!(Package::open(&path).is_err());
    }
}
