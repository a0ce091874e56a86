//! Packages with random weights.

use std::fs;
use std::path::Path;

use halo_models::{
    ImportError, Manifest, Package, Progress, PublishedShape, RandomOptions, RopeScaling, Shape,
    Values, WeightFormat, random,
};
use tempfile::TempDir;

fn shape() -> Shape {
    Shape {
        layers: 2,
        width: 64,
        heads: 4,
        kv_heads: 2,
        head_width: 16,
        feed_forward: 96,
        vocabulary: 300,
        context: 64,
        rope_theta: 10_000.0,
        rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }),
        sliding_window: None,
        qkv_bias: false,
        output_bias: false,
        qk_norm: false,
        norm_epsilon: 1e-5,
        tied_head: false,
        bos: Some(40),
        eos: vec![41, 299, 40],
    }
}

fn make(dir: &Path, name: &str, options: &RandomOptions) -> Package {
    random(&shape(), &dir.join(name), options, &mut |_| ()).unwrap()
}

fn options(weights: WeightFormat) -> RandomOptions {
    RandomOptions {
        weights,
        ..RandomOptions::default()
    }
}

#[test]
fn it_is_a_package_of_the_shape() {
    let dir = TempDir::new().unwrap();
    let mut seen = Vec::new();
    let place = dir.path().join("a/random");
    let options = RandomOptions::default();
    let package = random(&shape(), &place, &options, &mut |p| seen.push(p)).unwrap();
    assert_eq!(seen, [0, 1, 2, 3].map(|done| Progress { done, total: 3 }));
    assert_eq!(package.shape(), &shape());
    assert_eq!(
        (package.name(), package.groups(), package.group_size()),
        ("random", 3, 32)
    );
    assert_eq!(package.manifest().source, "random weights, seed 0");
    package.verify(|_, _| ()).unwrap();
    let names = fs::read_dir(dir.path().join("a")).unwrap();
    assert_eq!(names.count(), 1, "something was left beside the package");
}

#[test]
fn weights_are_as_large_as_their_inputs_allow() {
    let dir = TempDir::new().unwrap();
    for weights in ["f32", "f16", "q8:32", "q4:16", "q4:128"] {
        let options = options(weights.parse().unwrap());
        let package = make(dir.path(), &weights.replace(':', "-"), &options);
        let (attention, group) = (package.attention(1), package.group(1, 2));
        for (matrix, inputs) in [
            (package.head(), 64f32),
            (attention.query, 64.0),
            (attention.output, 64.0),
            (group.up, 64.0),
            (group.down, 96.0),
        ] {
            let values = matrix.dequantise();
            // Codes lie within 8 / 8 of the limit, and scales vary by a quarter.
            let limit = 1.25 / inputs.sqrt();
            assert!(values.iter().all(|value| value.abs() <= limit), "{weights}");
            // Evenly spread, so the standard deviation is the limit over the root of three; and around zero.
            let count = values.len() as f32;
            let mean = values.iter().sum::<f32>() / count;
            let square = values.iter().map(|value| value * value).sum::<f32>() / count;
            let ratio = (square * inputs * 3.0).sqrt();
            assert!((0.9..1.1).contains(&ratio), "{weights}: {ratio}");
            assert!(mean.abs() < 0.1 / inputs.sqrt(), "{weights}: {mean}");
        }
        assert_eq!(attention.norm, [1.0; 64]);
        assert_eq!(package.feed_forward_norm(0), [1.0; 64]);
        assert_eq!(package.final_norm(), [1.0; 64]);
        let head_is_f32 = matches!(package.head().values, Values::F32(_));
        assert_eq!(head_is_f32, weights == "f32");
    }
}

#[test]
fn the_seed_decides_the_weights() {
    let dir = TempDir::new().unwrap();
    let one = make(dir.path(), "one", &RandomOptions::default());
    let same = make(dir.path(), "same", &RandomOptions::default());
    assert_eq!(one.manifest().files, same.manifest().files);
    assert_eq!(one.identity(), same.identity());
    let seeded = RandomOptions {
        seed: 1,
        ..RandomOptions::default()
    };
    let other = make(dir.path(), "other", &seeded);
    let files = |package: &Package| package.manifest().files.clone();
    let (one, other) = (files(&one), files(&other));
    assert_eq!(one["tokenizer.json"], other["tokenizer.json"]);
    for name in ["embedding.safetensors", "layer-000.safetensors"] {
        assert_ne!(one[name], other[name], "{name}");
    }
    assert_ne!(
        one["layer-000.safetensors"].sha256,
        one["layer-001.safetensors"].sha256
    );
}

#[test]
fn the_tokenizer_takes_any_text() {
    let dir = TempDir::new().unwrap();
    let package = make(dir.path(), "random", &RandomOptions::default());
    let tokenizer = package.tokenizer().unwrap();
    let text = "Once upon a time, a naïve 🦙\n\t<filler-299>";
    let tokens = tokenizer.encode(text).unwrap();
    assert_eq!(tokens.len(), text.len());
    assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    let piece = |token| tokenizer.piece(token).unwrap();
    assert_eq!([40, 41, 299].map(piece), ["<s>", "</s>", "</s-1>"]);
    assert_eq!(tokenizer.encode("<s></s></s-1>").unwrap(), [40, 41, 299]);
    assert_eq!(tokenizer.decode(&[40, 41, 299]).unwrap(), "");
    assert_eq!(piece(298), "<filler-298>");
    assert_eq!(tokenizer.decode(&[298]).unwrap(), "<filler-298>");
    let pieces = (0..300)
        .map(piece)
        .collect::<std::collections::BTreeSet<_>>();
    assert_eq!(pieces.len(), 300);
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let refusal = |shape: Shape, options: &RandomOptions| {
        let place = dir.path().join("random");
        let error = random(&shape, &place, options, &mut |_| ()).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        error.to_string()
    };
    let (sound, defaults) = (shape(), RandomOptions::default());
    let small = Shape {
        vocabulary: 258,
        eos: vec![41, 42],
        ..sound.clone()
    };
    assert_eq!(
        refusal(small, &defaults),
        "a vocabulary of 258 is too small: a token for every byte and 3 others make 259"
    );
    let none = Shape {
        layers: 0,
        ..sound.clone()
    };
    assert_eq!(
        refusal(none, &defaults),
        "layers is 0, but must be between 1 and 1024"
    );
    let block = options(WeightFormat::Q4 { block: 24 });
    assert_eq!(
        refusal(sound.clone(), &block),
        "q4:24: the block size is not a power of two from 16 to 256"
    );
    make(dir.path(), "random", &defaults);
    let again = random(&sound, &dir.path().join("random"), &defaults, &mut |_| ());
    assert!(matches!(again, Err(ImportError::Exists { .. })));
    let overwrite = RandomOptions {
        seed: 7,
        overwrite: true,
        ..defaults
    };
    let replaced = make(dir.path(), "random", &overwrite);
    assert_eq!(replaced.manifest().source, "random weights, seed 7");
}

#[test]
fn published_shapes() {
    let dimensions = |shape: &Shape| {
        [
            shape.width,
            shape.layers,
            shape.heads,
            shape.kv_heads,
            shape.head_width,
            shape.feed_forward,
            shape.vocabulary,
            shape.context,
        ]
    };
    // As in the authors' config.json; parameters in all as counted by Hugging Face.
    let published = [
        (
            "tinyllama-1.1b",
            [2048, 22, 32, 4, 64, 5632, 32_000, 2048],
            10_000.0,
            1_100_048_384,
        ),
        (
            "llama-3.2-1b",
            [2048, 16, 32, 8, 64, 8192, 128_256, 131_072],
            500_000.0,
            1_235_814_400,
        ),
        (
            "llama-3.2-3b",
            [3072, 28, 24, 8, 128, 8192, 128_256, 131_072],
            500_000.0,
            3_212_749_824,
        ),
        (
            "llama-2-7b",
            [4096, 32, 32, 32, 128, 11_008, 32_000, 4096],
            10_000.0,
            6_738_415_616,
        ),
        (
            "llama-3-8b",
            [4096, 32, 32, 8, 128, 14_336, 128_256, 8192],
            500_000.0,
            8_030_261_248,
        ),
    ];
    assert_eq!(published.len(), PublishedShape::ALL.len());
    for (name, expected, rope_theta, parameters) in published {
        let known: PublishedShape = name.parse().unwrap();
        assert_eq!(known.to_string(), name);
        let shape = known.shape();
        assert_eq!(shape.validate(), Ok(()), "{name}");
        assert_eq!(dimensions(&shape), expected, "{name}");
        assert_eq!(shape.rope_theta, rope_theta, "{name}");
        let llama32 = name.starts_with("llama-3.2");
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        };
        assert_eq!(shape.rope_scaling, llama32.then_some(scaling), "{name}");
        assert_eq!(shape.tied_head, llama32, "{name}");
        let [queries, keys] = [shape.heads, shape.kv_heads].map(|heads| heads * shape.head_width);
        let layer = shape.width * (2 * queries + 2 * keys + 3 * shape.feed_forward + 2);
        let embeddings = if llama32 { 1 } else { 2 };
        let outer = shape.width * (embeddings * shape.vocabulary + 1);
        assert_eq!(shape.layers * layer + outer, parameters, "{name}");
    }
    assert_eq!(
        "llama".parse::<PublishedShape>().unwrap_err(),
        "`llama` is not a shape that is known by name; those are tinyllama-1.1b, llama-3.2-1b, llama-3.2-3b, llama-2-7b, llama-3-8b"
    );
}

#[test]
fn manifests_name_the_scaling_of_rotary_positions() {
    let dir = TempDir::new().unwrap();
    let package = make(dir.path(), "random", &RandomOptions::default());
    let bytes = fs::read(package.dir().join("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(manifest.shape, shape());
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(r#""rope_scaling": {"#), "{text}");
    assert!(text.contains(r#""type": "linear""#), "{text}");
}
