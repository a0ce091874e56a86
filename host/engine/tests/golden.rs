//! The default model against golden values: logits and greedy continuations computed by an independent implementation, a plain
//! float32 forward pass in NumPy.

use std::path::Path;

use halo_engine::{Backbone, Engine, EngineOptions, FeedForward, KvCache};
use halo_models::{ImportOptions, Package, WeightFormat, import};
use safetensors::SafeTensors;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tests/data");

fn f32_package(folder: &Path) -> Package {
    let options = ImportOptions {
        weights: WeightFormat::F32,
        ..ImportOptions::default()
    };
    import(
        &Path::new(DATA).join("tiny-hf"),
        &folder.join("tiny-f32"),
        &options,
        &mut |_| (),
    )
    .unwrap()
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[test]
fn f32_logits_and_greedy_tokens_agree_with_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let package = f32_package(folder.path());
    let shape = package.shape().clone();
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let mut backbone = Backbone::load(&engine, &package).unwrap();
    let mut feed_forward = FeedForward::load_all(&engine, &package).unwrap();

    let bytes = std::fs::read(Path::new(DATA).join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let ints = |name: &str| -> Vec<u32> {
        golden
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()) as u32)
            .collect()
    };
    let floats = |name: &str| -> Vec<f32> {
        golden
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let prompts = golden
        .names()
        .iter()
        .filter(|n| n.ends_with(".tokens"))
        .count();
    assert_eq!(prompts, 7);
    for p in 0..prompts {
        let (tokens, expected, greedy) = (
            ints(&format!("p{p}.tokens")),
            floats(&format!("p{p}.logits")),
            ints(&format!("p{p}.greedy")),
        );
        let mut logits = Vec::new();

        // The prompt at once, and in pieces: prefill that continues a cache takes another path through the operator.
        for piece in [tokens.len(), 3, 1] {
            let mut cache = KvCache::new(&shape, tokens.len());
            let mut all = Vec::new();
            for tokens in tokens.chunks(piece) {
                let hidden = backbone
                    .forward(tokens, &mut cache, &mut feed_forward)
                    .unwrap();
                backbone.logits(&hidden, &mut logits).unwrap();
                all.extend_from_slice(&logits);
            }
            assert_eq!(all.len(), expected.len());
            let largest = expected.iter().fold(0f32, |m, l| m.max(l.abs()));
            let worst = all
                .iter()
                .zip(&expected)
                .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(
                worst <= 1e-3 * largest,
                "prompt {p} in pieces of {piece}: off by {worst} where the largest logit is {largest}"
            );
        }

        let mut cache = KvCache::new(&shape, tokens.len() + greedy.len());
        let mut hidden = backbone
            .forward(&tokens, &mut cache, &mut feed_forward)
            .unwrap();
        let mut continuation = Vec::new();
        while continuation.len() < greedy.len() {
            backbone
                .logits(&hidden[hidden.len() - shape.width..], &mut logits)
                .unwrap();
            let token = argmax(&logits);
            continuation.push(token);
            hidden = backbone
                .forward(&[token], &mut cache, &mut feed_forward)
                .unwrap();
        }
        assert_eq!(continuation, greedy, "greedy continuation of prompt {p}");
    }
}
