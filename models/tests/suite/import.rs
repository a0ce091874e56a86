//! Importing: what comes out is what went in.

use std::collections::BTreeMap;
use std::fs;

use crate::model::*;
use halo_models::{
    Calibration, ImportError, ImportOptions, Manifest, Matrix, Package, Progress, RopeScaling,
    Values, WeightFormat, import,
};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Rows put one after another.
fn rows(matrices: impl Iterator<Item = Vec<f32>>) -> Vec<f32> {
    matrices.flatten().collect()
}

/// Matrices of `rows` rows put side by side.
fn columns(matrices: &[Vec<f32>], rows: usize) -> Vec<f32> {
    (0..rows)
        .flat_map(|row| {
            matrices.iter().flat_map(move |matrix| {
                let width = matrix.len() / rows;
                matrix[row * width..(row + 1) * width].iter().copied()
            })
        })
        .collect()
}

/// Every weight of a package in the source's names and order.
fn unpacked(package: &Package) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    let mut embedding = vec![0.0; VOCABULARY * WIDTH];
    for (token, row) in embedding.chunks_exact_mut(WIDTH).enumerate() {
        package.embedding(token as u32, row).unwrap();
    }
    all.insert("model.embed_tokens.weight".to_owned(), embedding);
    all.insert("model.norm.weight".to_owned(), package.final_norm());
    if !package.shape().tied_head {
        all.insert("lm_head.weight".to_owned(), package.head().dequantise());
    }
    for layer in 0..LAYERS {
        let mut put =
            |name: &str, values| all.insert(format!("model.layers.{layer}.{name}.weight"), values);
        let attention = package.attention(layer);
        put("input_layernorm", attention.norm.clone());
        put("self_attn.q_proj", attention.query.dequantise());
        put("self_attn.k_proj", attention.key.dequantise());
        put("self_attn.v_proj", attention.value.dequantise());
        put("self_attn.o_proj", attention.output.dequantise());
        put("post_attention_layernorm", package.feed_forward_norm(layer));
        let groups = || (0..package.groups()).map(|group| package.group(layer, group));
        put(
            "mlp.gate_proj",
            rows(groups().map(|group| group.gate.dequantise())),
        );
        put(
            "mlp.up_proj",
            rows(groups().map(|group| group.up.dequantise())),
        );
        let down = groups()
            .map(|group| group.down.dequantise())
            .collect::<Vec<_>>();
        put("mlp.down_proj", columns(&down, WIDTH));
    }
    all
}

fn source_values(model: &Model) -> BTreeMap<String, Vec<f32>> {
    model
        .tensors
        .keys()
        .map(|name| (name.clone(), model.values(name)))
        .collect()
}

#[test]
fn the_default_model_is_reproduced_byte_for_byte() {
    let dir = TempDir::new().unwrap();
    let made = dir.path().join("tiny");
    let options = ImportOptions {
        weights: WeightFormat::Q4 { block: 128 },
        embedding: Some(WeightFormat::F16),
        ..ImportOptions::default()
    };
    import(&data().join("tiny-hf"), &made, &options, &mut |_| ()).unwrap();
    let mut committed: Manifest =
        serde_json::from_slice(&fs::read(tiny().join("manifest.json")).unwrap()).unwrap();
    // Calibrating comes after importing.
    committed.files.remove("calibration.safetensors");
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(made.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest, committed);
    assert_eq!(manifest.files.len(), 8);
    for name in manifest.files.keys() {
        let same = fs::read(made.join(name)).unwrap() == fs::read(tiny().join(name)).unwrap();
        assert!(
            same,
            "{name} differs from the committed file; import the model again"
        );
    }
}

#[test]
fn f32_keeps_every_weight_of_every_source_format() {
    let model = Model::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let (_dir, package) = model.clone().converted(dtype).import(&f32_options());
        let package = package.unwrap();
        assert!(matches!(package.head().values, Values::F32(_)));
        assert_eq!(unpacked(&package), source_values(&model), "{dtype}");
    }
}

#[test]
fn f16_keeps_what_f16_can_express() {
    let model = Model::new();
    let options = ImportOptions {
        weights: WeightFormat::F16,
        ..ImportOptions::default()
    };
    let (_dir, package) = model.import(&options);
    let package = package.unwrap();
    assert!(matches!(package.group(0, 0).down.values, Values::F16(_)));
    assert_eq!(unpacked(&package), source_values(&model));
}

#[test]
fn a_model_in_parts_is_the_same_model() {
    let dir = TempDir::new().unwrap();
    let model = Model::new();
    model.write_parts(&dir.path().join("source"));
    let parts = import_in(dir.path(), &ImportOptions::default()).unwrap();
    let (_dir, whole) = model.import(&ImportOptions::default());
    assert_eq!(parts.manifest(), whole.unwrap().manifest());
}

#[test]
fn an_untied_head_is_stored() {
    let mut model = Model::new().config("tie_word_embeddings", json!(false));
    let head = (0..VOCABULARY * WIDTH)
        .map(|i| i as f32)
        .collect::<Vec<_>>();
    let tensor = (Dtype::F32, vec![VOCABULARY, WIDTH], f32_bytes(&head));
    model.tensors.insert("lm_head.weight".into(), tensor);
    let (_dir, package) = model.import(&f32_options());
    let package = package.unwrap();
    assert!(!package.shape().tied_head);
    assert_eq!(unpacked(&package), source_values(&model));
}

#[test]
fn embedding_and_head_have_formats_of_their_own() {
    let q8 = |block| WeightFormat::Q8 { block };
    let untied = || {
        let mut model = Model::new().config("tie_word_embeddings", json!(false));
        let head = model.tensors["model.embed_tokens.weight"].clone();
        model.tensors.insert("lm_head.weight".into(), head);
        model
    };
    let formats = |model: Model, weights, embedding, head| {
        let options = ImportOptions {
            weights,
            embedding,
            head,
            ..ImportOptions::default()
        };
        let (dir, package) = model.import(&options);
        let formats = package?.manifest().quantisation;
        let again = Package::open(&dir.path().join("package"))?;
        assert_eq!(again.manifest().quantisation, formats);
        Ok::<_, ImportError>((formats.embedding, formats.head))
    };
    let (f16, f32) = (WeightFormat::F16, WeightFormat::F32);
    let q4 = WeightFormat::Q4 { block: 32 };
    for (weights, embedding) in [(q4, q8(32)), (q8(64), q8(64)), (f16, f16), (f32, f32)] {
        let found = formats(Model::new(), weights, None, None).unwrap();
        assert_eq!(found, (embedding, None));
    }
    let found = formats(untied(), q4, Some(f16), Some(q8(32))).unwrap();
    assert_eq!(found, (f16, Some(q8(32))));
    let found = formats(untied(), q4, Some(f16), Some(f16)).unwrap();
    assert_eq!(found, (f16, None));
    let refused = formats(Model::new(), q4, None, Some(f16)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the head is the embedding, so it cannot be stored in another format"
    );
}

#[test]
fn quantised_matrices_have_the_blocks_that_groups_allow() {
    fn block(matrix: Matrix<'_>) -> (u8, usize) {
        match matrix.values {
            Values::Quantised {
                bits,
                block,
                data,
                scales,
                zero_points,
            } => {
                let blocks = matrix.rows * matrix.columns / block;
                assert_eq!(
                    data.len(),
                    matrix.rows * matrix.columns * usize::from(bits) / 8
                );
                assert_eq!((scales.len(), zero_points.len()), (blocks * 4, blocks));
                (bits, block)
            }
            _ => panic!("not quantised"),
        }
    }
    for (weights, bits) in [
        (WeightFormat::Q4 { block: 128 }, 4),
        (WeightFormat::Q8 { block: 128 }, 8),
    ] {
        let options = ImportOptions {
            weights,
            embedding: Some(weights),
            ..ImportOptions::default()
        };
        let model = Model::new();
        let (_dir, package) = model.import(&options);
        let package = package.unwrap();
        assert_eq!((package.group_size(), package.groups()), (32, 3));
        let (attention, group) = (package.attention(1), package.group(1, 2));
        // Rows of 64 columns; a KV group of 2 heads has 32, and a group of neurons has 32.
        for matrix in [
            attention.query,
            attention.key,
            attention.value,
            group.gate,
            group.up,
            package.head(),
        ] {
            assert_eq!(block(matrix), (bits, 64));
        }
        assert_eq!(block(attention.output), (bits, 32));
        assert_eq!(block(group.down), (bits, 32));
        // 2 * 32 * 64 weights in blocks of 64, and 64 * 32 in blocks of 32.
        let bytes = |count: u64, blocks: u64| count * u64::from(bits) / 8 + blocks * 5;
        assert_eq!(package.group_bytes(), bytes(4096, 64) + bytes(2048, 64));
        // Weights lie between -1 and 1, so a step is at most 2 / 15 or 2 / 255, and each norm is exact.
        let (step, source) = (2.0 / f64::from((1 << bits) - 1), source_values(&model));
        for (name, values) in unpacked(&package) {
            let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            let error: f64 = values.iter().zip(&source[&name]).map(square).sum();
            let bound = if name.contains("norm") {
                0.0
            } else {
                step * step / 4.0
            };
            assert!(error <= bound * values.len() as f64, "{name}: {error}");
        }
    }
}

#[test]
fn the_group_size_suits_the_model_or_is_the_one_asked_for() {
    let group_size = |neurons: usize, asked| {
        let mut model = Model::new().config("intermediate_size", json!(neurons));
        for (name, (_, shape, bytes)) in &mut model.tensors {
            if name.contains("mlp.") {
                let neuron_axis = usize::from(name.contains("down_proj"));
                shape[neuron_axis] = neurons;
                *bytes = vec![0; neurons * WIDTH * 4];
            }
        }
        let options = ImportOptions {
            group_size: asked,
            ..f32_options()
        };
        model.import(&options).1.map(|package| package.group_size())
    };
    assert_eq!(group_size(96, None).unwrap(), 32);
    assert_eq!(group_size(2048, None).unwrap(), 128);
    assert_eq!(group_size(2080, None).unwrap(), 32);
    assert_eq!(group_size(80, None).unwrap(), 16);
    assert_eq!(group_size(100, None).unwrap(), 16);
    assert_eq!(group_size(5461, None).unwrap(), 128);
    assert_eq!(group_size(96, Some(48)).unwrap(), 48);
    for size in [0, 97] {
        assert_eq!(
            group_size(96, Some(size)).unwrap_err().to_string(),
            format!("96 feed-forward neurons cannot be divided into groups of {size}")
        );
    }
}

#[test]
fn neurons_of_zeros_fill_the_last_group() {
    let options = ImportOptions {
        group_size: Some(36),
        ..f32_options()
    };
    let model = Model::new();
    let (_dir, package) = model.import(&options);
    let package = package.unwrap();
    assert_eq!((package.shape().feed_forward, package.groups()), (108, 3));
    let last = package.group(1, 2);
    let (gate, up) = (last.gate.dequantise(), last.up.dequantise());
    for rows in [gate, up] {
        assert!(rows[..24 * WIDTH].iter().any(|weight| *weight != 0.0));
        assert!(rows[24 * WIDTH..].iter().all(|weight| *weight == 0.0));
    }
    let columns = last.down.dequantise();
    let source = model.values("model.layers.1.mlp.down_proj.weight");
    for (row, whole) in columns.chunks(36).zip(source.chunks(FEED_FORWARD)) {
        assert_eq!(row[..24], whole[72..]);
        assert!(row[24..].iter().all(|weight| *weight == 0.0));
    }
}

#[test]
fn progress_counts_the_files() {
    let dir = TempDir::new().unwrap();
    Model::new().write(&dir.path().join("source"));
    let mut seen = Vec::new();
    let mut note = |progress| seen.push(progress);
    import(
        &dir.path().join("source"),
        &dir.path().join("a/b/package"),
        &f32_options(),
        &mut note,
    )
    .unwrap();
    assert_eq!(seen, [0, 1, 2, 3].map(|done| Progress { done, total: 3 }));
}

#[test]
fn newer_and_older_spellings_of_the_configuration() {
    let shape = |model: Model| model.import(&f32_options()).1.unwrap().shape().clone();
    let plain = shape(Model::new());
    assert_eq!(
        (plain.rope_theta, plain.eos.as_slice(), plain.bos),
        (500_000.0, &[1, 2][..], Some(0))
    );
    assert_eq!(plain.head_width, HEAD_WIDTH);
    let newer = json!({"rope_type": "default", "rope_theta": 250_000.0});
    let newer = shape(
        Model::new()
            .without_config("rope_theta")
            .config("rope_parameters", newer),
    );
    assert_eq!(newer.rope_theta, 250_000.0);
    let older = shape(
        Model::new()
            .without_config("rope_theta")
            .config("rope_scaling", Value::Null),
    );
    assert_eq!(older.rope_theta, 10_000.0);
    let one = shape(
        Model::new()
            .config("eos_token_id", json!(3))
            .without_config("bos_token_id"),
    );
    assert_eq!((one.eos.as_slice(), one.bos), (&[3][..], None));
    let mistral = Model::new().config("model_type", json!("mistral"));
    assert_eq!(
        shape(mistral.clone().config("sliding_window", Value::Null)),
        plain
    );
    let window = |model: &Model, size: Value| {
        let model = model.clone().config("sliding_window", size);
        shape(model).sliding_window
    };
    // One as long as the context hides nothing.
    assert_eq!(window(&mistral, json!(64)), None);
    assert_eq!(window(&mistral, json!(63)), Some(63));
    let longer = mistral.config("max_position_embeddings", json!(4097));
    assert_eq!(shape(longer).sliding_window, Some(4096));
    // LLaMA has none, whatever is written there.
    assert_eq!(window(&Model::new(), json!(32)), None);
}

#[test]
fn scaled_rotary_positions_in_either_spelling() {
    let scaling = |key: &str, value: Value| {
        let (dir, package) = Model::new().config(key, value).import(&f32_options());
        let scaling = package.unwrap().shape().rope_scaling.clone();
        let again = Package::open(&dir.path().join("package")).unwrap();
        assert_eq!(again.shape().rope_scaling, scaling);
        scaling
    };
    let linear = Some(RopeScaling::Linear { factor: 2.0 });
    let llama3 = Some(RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    });
    for key in ["rope_scaling", "rope_parameters"] {
        for kind in ["type", "rope_type"] {
            let value = json!({kind: "linear", "factor": 2.0});
            assert_eq!(scaling(key, value), linear, "{key} {kind}");
            let value = json!({
                kind: "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            });
            assert_eq!(scaling(key, value), llama3, "{key} {kind}");
            let value = json!({kind: "default", "factor": 2.0});
            assert_eq!(scaling(key, value), None, "{key} {kind}");
        }
    }
    // The same model computes something else, so it is another one.
    let identity = |model: Model| {
        model
            .import(&f32_options())
            .1
            .unwrap()
            .identity()
            .to_owned()
    };
    let scaled = Model::new().config("rope_scaling", json!({"type": "linear", "factor": 2.0}));
    assert_ne!(identity(scaled), identity(Model::new()));
}

#[test]
fn what_is_at_the_destination_is_safe() {
    let (dir, package) = Model::new().import(&f32_options());
    let package = package.unwrap();
    let place = package.dir().to_path_buf();
    let refused = import_in(dir.path(), &f32_options()).unwrap_err();
    assert!(
        matches!(refused, ImportError::Exists { ref path } if *path == place),
        "{refused}"
    );

    package.with_calibration(&Calibration::default()).unwrap();
    fs::write(place.join("README.md"), "mine").unwrap();
    let overwrite = ImportOptions {
        overwrite: true,
        ..ImportOptions::default()
    };
    let replaced = import_in(dir.path(), &overwrite).unwrap();
    assert_ne!(replaced.identity(), package.identity());
    assert_eq!(fs::read_to_string(place.join("README.md")).unwrap(), "mine");
    assert!(!place.join("calibration.safetensors").exists());
    // Whoever has the old package open still reads the old weights.
    assert!(matches!(package.group(0, 0).up.values, Values::F32(_)));
    assert_eq!(unpacked(&package), source_values(&Model::new()));

    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "mine").unwrap();
    let refused = import(&dir.path().join("source"), &other, &overwrite, &mut |_| ()).unwrap_err();
    assert!(
        matches!(refused, ImportError::NotAPackage { .. }),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "mine");
    let mut names = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["other", "package", "source"]);
}
