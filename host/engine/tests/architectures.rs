//! Small random models of every architecture against logits computed by an independent implementation in NumPy: see
//! `models/tests/data/architectures/make.py`.

use std::path::Path;

use halo_engine::{Backbone, Engine, EngineOptions, FeedForward, KvCache};
use halo_models::{ImportOptions, Package, Shape, WeightFormat, import};
use safetensors::SafeTensors;

const DATA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/tests/data/architectures"
);

/// Logits of all tokens, which are given in pieces of at most `piece`.
fn logits(package: &Package, tokens: &[u32], piece: usize) -> Vec<f32> {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut backbone = Backbone::load(&engine, package).unwrap();
    let mut feed_forward = FeedForward::load_all(&engine, package).unwrap();
    let mut cache = KvCache::new(package.shape(), tokens.len());
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for tokens in tokens.chunks(piece) {
        let hidden = backbone.forward(tokens, &mut cache, &mut feed_forward);
        backbone.logits(&hidden.unwrap(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

/// Imports the architecture's model in f32 and in 8 bits, compares both with NumPy, and gives the shape.
fn check(architecture: &str) -> Shape {
    let source = Path::new(DATA).join(architecture);
    let bytes = std::fs::read(source.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| golden.tensor(name).unwrap().data().as_chunks().0.to_vec();
    let tokens: Vec<u32> = words("tokens")
        .into_iter()
        .map(u32::from_le_bytes)
        .collect();
    let expected: Vec<f32> = words("logits")
        .into_iter()
        .map(f32::from_le_bytes)
        .collect();
    let largest = expected.iter().fold(0f32, |m, l| m.max(l.abs()));
    let folder = tempfile::tempdir().unwrap();
    let package = |weights| {
        let options = ImportOptions {
            weights,
            ..ImportOptions::default()
        };
        let place = folder.path().join(weights.to_string().replace(':', "-"));
        import(&source, &place, &options, &mut |_| ()).unwrap()
    };
    let compare = |package: &Package, piece, tolerance: f32| {
        let found = logits(package, &tokens, piece);
        assert_eq!(found.len(), expected.len());
        let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let worst = off.fold(0f32, f32::max);
        assert!(
            worst <= tolerance,
            "{architecture} in pieces of {piece}: off by {worst} where the largest logit is {largest}"
        );
    };
    let exact = package(WeightFormat::F32);
    // Prefill, prefill that continues a cache, and decoding take different paths through the operators.
    for piece in [tokens.len(), 3, 1] {
        compare(&exact, piece, 1e-3);
    }
    let rounded = package(WeightFormat::Q8 { block: 32 });
    compare(&rounded, tokens.len(), 0.1 * largest);
    exact.shape().clone()
}

#[test]
fn mistral_with_a_window_shorter_than_the_text() {
    let shape = check("mistral");
    assert_eq!((shape.sliding_window, shape.kv_heads), (Some(7), 1));
    assert_eq!(shape.feed_forward, 80, "76 neurons, and 4 to fill a group");
}

#[test]
fn qwen2_with_biases() {
    let shape = check("qwen2");
    assert!(shape.qkv_bias && !shape.output_bias && shape.sliding_window.is_none());
}

#[test]
fn qwen3_with_norms_of_queries_and_keys() {
    let shape = check("qwen3");
    assert!(shape.qk_norm && !shape.qkv_bias);
    assert_eq!((shape.head_width, shape.kv_heads), (32, shape.heads));
}

#[test]
fn llama_with_scaled_rotary_positions_and_biases() {
    let shape = check("llama");
    assert!(shape.qkv_bias && shape.output_bias && shape.rope_scaling.is_some());
}
