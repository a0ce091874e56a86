//! Importing from GGUF files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::gguf_file::*;
use crate::model::*;
use halo_models::{
    ImportOptions, Manifest, Matrix, Package, RopeScaling, Values, WeightFormat, import,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use tempfile::TempDir;

fn imported(file: &GgufFile, options: &ImportOptions) -> (TempDir, Package) {
    let (dir, package) = import_bytes(&file.bytes(), options);
    (dir, package.unwrap())
}

fn file() -> GgufFile {
    GgufFile::of(&Model::new())
}

/// Shape, and the hash of every file.
fn content(package: &Package) -> (Manifest, BTreeMap<String, String>) {
    let mut manifest = package.manifest().clone();
    manifest.source = String::new();
    let files = std::mem::take(&mut manifest.files);
    let hash = |(name, record): (String, halo_models::FileRecord)| (name, record.sha256);
    (manifest, files.into_iter().map(hash).collect())
}

/// A model folder, as a GGUF file beside which there is no tokenizer.
fn converted(folder: &Path, path: &Path) {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter().map(|(name, tensor)| {
        let content = (
            tensor.dtype(),
            tensor.shape().to_vec(),
            tensor.data().to_vec(),
        );
        (name.to_owned(), content)
    });
    let config = fs::read(folder.join("config.json")).unwrap();
    let model = Model {
        config: serde_json::from_slice(&config).unwrap(),
        tensors: tensors.collect(),
        tokenizer: json!(null),
    };
    fs::write(path, GgufFile::of(&model).bytes()).unwrap();
}

#[test]
fn the_default_model_is_the_same_from_a_gguf_file() {
    let folder = data().join("tiny-hf");
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tiny.gguf");
    converted(&folder, &path);
    let options = ImportOptions {
        weights: WeightFormat::Q4 { block: 128 },
        embedding: Some(WeightFormat::F16),
        tokenizer: Some(folder.join("tokenizer.json")),
        ..ImportOptions::default()
    };
    let made = import(&path, &dir.path().join("tiny"), &options, &mut |_| ()).unwrap();
    let (manifest, files) = content(&made);
    let (expected, mut expected_files) = content(&Package::open(&tiny()).unwrap());
    // Calibrating comes after importing.
    expected_files.remove("calibration.safetensors");
    assert_eq!(manifest, expected);
    assert_eq!(files, expected_files);
    assert_eq!(made.manifest().source, "a GGUF file");
}

/// Biases, norms of queries and keys, a window, heads wider than usual, and neurons that do not fill a group.
#[test]
fn every_architecture_is_the_same_from_a_gguf_file() {
    let dir = TempDir::new().unwrap();
    for architecture in ["llama", "mistral", "qwen2", "qwen3"] {
        let folder = data().join("architectures").join(architecture);
        let path = dir.path().join(format!("{architecture}.gguf"));
        converted(&folder, &path);
        let options = ImportOptions {
            tokenizer: Some(folder.join("tokenizer.json")),
            ..ImportOptions::default()
        };
        let from = |source: &Path, name: &str| {
            let place = dir.path().join(name).join(architecture);
            import(source, &place, &options, &mut |_| ()).unwrap()
        };
        let (mut expected, expected_files) = content(&from(&folder, "folder"));
        let (manifest, files) = content(&from(&path, "file"));
        // Factors, of which the file on the spot has none, are another test's.
        expected.shape.rope_scaling = None;
        assert_eq!(manifest, expected, "{architecture}");
        assert_eq!(files, expected_files, "{architecture}");
    }
}

/// The folder and the file were made from the same numbers in Python, with the permutation as llama.cpp's converter
/// has it.
#[test]
fn a_file_of_another_writer_holds_the_same_model_as_its_folder() {
    let dir = TempDir::new().unwrap();
    let source = data().join("gguf/small");
    let from = |source: &Path, name: &str| {
        import(source, &dir.path().join(name), &f32_options(), &mut |_| ()).unwrap()
    };
    let file = from(&source.join("small.gguf"), "small");
    let folder = from(&source, "small-folder");
    let (mut files, mut expected) = (content(&file).1, content(&folder).1);
    for name in ["tokenizer.json", "chat_template.jinja"] {
        files.remove(name);
        expected.remove(name);
    }
    assert_eq!(files, expected);
    let scaling = folder.shape().rope_scaling.clone();
    let Some(RopeScaling::Factors { factors }) = &file.shape().rope_scaling else {
        panic!("{:?}", file.shape().rope_scaling);
    };
    assert!(matches!(scaling, Some(RopeScaling::Llama3 { .. })));
    assert_eq!((factors.len(), factors[0], factors[7]), (8, 1.0, 32.0));
    let mut same = file.shape().clone();
    same.rope_scaling = scaling;
    assert_eq!(&same, folder.shape());
}

#[test]
fn every_plain_format_keeps_every_weight() {
    let expected = content(&Model::new().import(&f32_options()).1.unwrap());
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let file = GgufFile::of(&Model::new().converted(dtype));
        let (_dir, package) = imported(&file, &f32_options());
        assert_eq!(content(&package), expected, "{dtype}");
    }
}

#[test]
fn an_untied_head_is_stored() {
    let head = vec![0.5; VOCABULARY * WIDTH];
    let file = file().with("output.weight", &[WIDTH as u64, VOCABULARY as u64], &head);
    let (_dir, package) = imported(&file, &f32_options());
    assert!(!package.shape().tied_head);
    assert_eq!(package.head().dequantise(), head);
}

#[test]
fn blocks_that_are_quantised_alike_are_kept_as_they_are() {
    fn zero_points(matrix: Matrix<'_>) -> Option<u8> {
        match matrix.values {
            Values::Quantised { zero_points, .. } => {
                let same = zero_points.iter().all(|zero| *zero == zero_points[0]);
                same.then(|| zero_points[0])
            }
            _ => None,
        }
    }
    for (kind, bytes, weights, zero_point) in [
        (2, 18, WeightFormat::Q4 { block: 32 }, 8),
        (8, 34, WeightFormat::Q8 { block: 32 }, 128),
    ] {
        let mut file = file();
        for name in ["attn_q", "attn_output", "ffn_gate", "ffn_down"] {
            file = file.tensor(&format!("blk.1.{name}.weight"), |tensor| {
                quantised(tensor, kind, bytes);
            });
        }
        let options = ImportOptions {
            weights,
            ..ImportOptions::default()
        };
        let (_dir, kept) = imported(&file, &options);
        let (_dir, exact) = imported(&file, &f32_options());
        let matrices = |package: &Package, group| {
            let (attention, group) = (package.attention(1), package.group(1, group));
            [attention.query, attention.output, group.gate, group.down].map(|matrix| {
                let zero_point = zero_points(matrix);
                (matrix.dequantise(), zero_point)
            })
        };
        for group in 0..3 {
            let exact = matrices(&exact, group);
            for ((kept, zero), (exact, _)) in matrices(&kept, group).into_iter().zip(exact) {
                assert_eq!(zero, Some(zero_point));
                assert!(kept == exact, "{weights}");
            }
        }
    }
}

#[test]
fn keys_that_a_file_may_lack_or_have() {
    let shape = |file: GgufFile| imported(&file, &f32_options()).1.shape().clone();
    let plain = shape(file());
    let folder = Model::new().import(&f32_options()).1.unwrap();
    assert_eq!(&plain, folder.shape());
    let bare = ["head_count_kv", "eot_token_id", "bos_token_id", "freq_base"];
    let mut bare_file = file();
    bare_file
        .keys
        .retain(|(key, _)| !bare.iter().any(|bare| key.ends_with(bare)));
    for layer in 0..LAYERS {
        for name in ["attn_k", "attn_v"] {
            bare_file = bare_file.tensor(&format!("blk.{layer}.{name}.weight"), |tensor| {
                tensor.dimensions[1] *= 2;
                tensor.bytes = tensor.bytes.repeat(2);
            });
        }
    }
    let bare = shape(bare_file);
    assert_eq!((bare.kv_heads, bare.bos, bare.eos), (HEADS, None, vec![1]));
    assert_eq!(bare.rope_theta, 10_000.0);
    let without_bos = file().key("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert_eq!(shape(without_bos).bos, None);
    // Integers of another width.
    let wide = Meta::Raw(10, (LAYERS as u64).to_le_bytes().into());
    assert_eq!(shape(file().key("llama.block_count", wide)), plain);
    let signed = Meta::Raw(3, (KV_HEADS as i16).to_le_bytes().into());
    let signed = file().key("llama.attention.head_count_kv", signed);
    assert_eq!(shape(signed), plain);
}

#[test]
fn scaled_rotary_positions() {
    let scaling = |file: GgufFile| {
        let (dir, package) = imported(&file, &f32_options());
        let scaling = package.shape().rope_scaling.clone();
        let again = Package::open(&dir.path().join("package")).unwrap();
        assert_eq!(again.shape().rope_scaling, scaling);
        scaling
    };
    let kind = |kind| file().key("llama.rope.scaling.type", Meta::String(kind));
    let factor = |file: GgufFile, factor| file.key("llama.rope.scaling.factor", Meta::F32(factor));
    let linear = Some(RopeScaling::Linear { factor: 2.0 });
    assert_eq!(scaling(factor(kind("linear"), 2.0)), linear);
    assert_eq!(scaling(factor(file(), 2.0)), linear);
    let older = file().key("llama.rope.scale_linear", Meta::F32(2.0));
    assert_eq!(scaling(older), linear);
    assert_eq!(scaling(factor(kind("none"), 2.0)), None);
    assert_eq!(scaling(factor(kind("linear"), 0.0)), None);
    let factors = [1.0, 1.5, 2.0, 3.0, 8.1, 8.2, 8.3, 8.4f32];
    let pairs = |file: GgufFile| file.with("rope_freqs.weight", &[8], &factors);
    let expected = |times: f32| RopeScaling::Factors {
        factors: factors.map(|factor| factor * times).into(),
    };
    assert_eq!(scaling(pairs(file())), Some(expected(1.0)));
    assert_eq!(
        scaling(pairs(factor(kind("linear"), 2.0))),
        Some(expected(2.0))
    );
}

#[test]
fn a_tokenizer_is_made_from_the_vocabulary_unless_one_is_named() {
    let dir = TempDir::new().unwrap();
    let import = |name: &str, file: &Path, tokenizer: Option<PathBuf>| {
        let options = ImportOptions {
            tokenizer,
            ..f32_options()
        };
        import(file, &dir.path().join(name), &options, &mut |_| ())
    };
    let small = data().join("gguf/small");
    let made = import("made", &small.join("small.gguf"), None).unwrap();
    let tokens = made.tokenizer().unwrap().encode("a cab").unwrap();
    assert_eq!(made.tokenizer().unwrap().decode(&tokens).unwrap(), "a cab");
    assert_eq!(
        (made.shape().bos, &made.shape().eos[..]),
        (Some(1), &[2][..])
    );
    let chat = made.manifest().chat.as_ref().unwrap();
    assert_eq!((chat.bos.as_str(), chat.eos.as_str()), ("<s>", "</s>"));
    let other = small.join("tokenizer.json");
    let named = import("named", &small.join("small.gguf"), Some(other)).unwrap();
    assert_eq!(named.tokenizer().unwrap().piece(7).as_deref(), Some("t7"));
    let refused = import("refused", &data().join("gguf/mixed.gguf"), None).unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("mixed.gguf: tokenizer.ggml.tokens is missing or empty"),
        "{refused}"
    );
}
