//! A layer's attention computed in parts is the layer's attention: partials of any split of the KV heads add up to it, whatever
//! rows there are and whosoever they are.

use std::path::{Path, PathBuf};

use halo_engine::{Attention, AttentionHeads, Engine, EngineOptions, KvCache, Part};
use halo_models::{ImportOptions, Package, WeightFormat, import};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};

const OWNERS: usize = 3;

fn data(folder: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tests/data");
    tests.join(folder)
}

fn imported(folder: &str, weights: WeightFormat) -> (Package, tempfile::TempDir) {
    let target = tempfile::tempdir().unwrap();
    let options = ImportOptions {
        weights,
        ..ImportOptions::default()
    };
    let path = target.path().join("package");
    let package = import(&data(folder), &path, &options, &mut |_| ()).unwrap();
    (package, target)
}

/// The rows of a pass: made up, and others for every seed.
fn rows(package: &Package, count: usize, seed: u32) -> Vec<f32> {
    let values = 0..count * package.shape().width;
    values
        .map(|i| ((i as f32 + 1.0) * seed as f32 * 0.37).sin())
        .collect()
}

/// Off by at most this share of the largest value.
fn close(got: &[f32], expected: &[f32], tolerance: f32) -> TestCaseResult {
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let worst = differences.fold(0f32, f32::max);
    prop_assert!(worst <= tolerance * largest, "off by {worst} of {largest}");
    Ok(())
}

/// A layer's attention, whole and in parts, over caches of their own.
struct Split {
    whole: Attention,
    parts: Vec<AttentionHeads>,
    layer: usize,
    /// By generation: the whole's, then each part's.
    caches: Vec<Vec<KvCache>>,
}

impl Split {
    fn new(engine: &Engine, package: &Package, layer: usize, owners: &[usize]) -> Self {
        let shape = package.shape();
        let heads = |owner: usize| {
            let mut lists = vec![Vec::new(); shape.layers];
            lists[layer] = (0..shape.kv_heads as u32)
                .filter(|head| owners[*head as usize % owners.len()] == owner)
                .collect();
            AttentionHeads::load(engine, package, &lists).unwrap()
        };
        let parts: Vec<_> = (0..OWNERS).map(heads).collect();
        let caches = |_| {
            let count =
                |part: &AttentionHeads| part.heads().iter().map(Vec::len).collect::<Vec<_>>();
            let own = parts
                .iter()
                .map(|part| KvCache::of_heads(shape, &count(part), 64));
            std::iter::once(KvCache::new(shape, 64))
                .chain(own)
                .collect()
        };
        Self {
            whole: Attention::load(engine, package).unwrap(),
            caches: (0..2).map(caches).collect(),
            parts,
            layer,
        }
    }

    /// Runs so many rows of each generation, from its start on, and compares.
    fn pass(&mut self, runs: &[(usize, usize)], input: &[f32], tolerance: f32) -> TestCaseResult {
        let mut results = Vec::new();
        for index in 0..=OWNERS {
            let caches = self.caches.iter_mut().zip(runs);
            let mut parts: Vec<_> = caches
                .filter(|(_, (_, rows))| *rows > 0)
                .map(|(caches, &(start, rows))| Part {
                    rows,
                    start,
                    cache: &mut caches[index],
                })
                .collect();
            let mut hidden = input.to_vec();
            let mut normed = vec![0f32; input.len()];
            if index == 0 {
                self.whole
                    .run(self.layer, &mut parts, &mut hidden, &mut normed)
                    .unwrap();
                results.push((hidden, normed));
                continue;
            }
            let heads = &mut self.parts[index - 1];
            heads.norm(self.layer, input, &mut normed);
            let mut partial = vec![f32::NAN; input.len()];
            heads
                .run(self.layer, &mut parts, &normed, &mut partial)
                .unwrap();
            results.push((partial, Vec::new()));
        }
        let (mut hidden, mut normed) = (input.to_vec(), vec![0f32; input.len()]);
        let mut sum = vec![0f32; input.len()];
        for (partial, _) in &results[1..] {
            sum.iter_mut().zip(partial).for_each(|(s, p)| *s += p);
        }
        self.parts[0].finish(self.layer, &sum, &mut hidden, &mut normed);
        close(&hidden, &results[0].0, tolerance)?;
        close(&normed, &results[0].1, tolerance)
    }
}

#[test]
fn partials_of_any_split_add_up() {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    // Products of quantised weights round their inputs to 8 bits by block: where the last bit of an input decides, it is rounded
    // otherwise. So are the 64 columns of the output that a KV head of this model has, half a block of 128.
    let packages = [
        ("tiny-hf", WeightFormat::F32, 1e-4),
        ("tiny-hf", WeightFormat::F16, 1e-4),
        ("tiny-hf", WeightFormat::Q4 { block: 32 }, 1e-2),
        ("tiny-hf", WeightFormat::Q4 { block: 128 }, 1e-2),
        ("tiny-hf", WeightFormat::Q8 { block: 64 }, 1e-2),
        ("architectures/llama", WeightFormat::F32, 1e-4),
        ("architectures/mistral", WeightFormat::F32, 1e-4),
        ("architectures/qwen2", WeightFormat::F32, 1e-4),
        ("architectures/qwen3", WeightFormat::F32, 1e-4),
    ];
    for (folder, weights, tolerance) in packages {
        let (package, _folder) = imported(folder, weights);
        let layers = package.shape().layers;
        let owners = prop::collection::vec(0..OWNERS, package.shape().kv_heads);
        let passes = prop::collection::vec((0usize..6, 0usize..6), 1..4);
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 6,
            ..ProptestConfig::default()
        });
        runner
            .run(
                &(owners, 0..layers, passes, 1u32..1000),
                |(owners, layer, passes, seed)| {
                    let mut split = Split::new(&engine, &package, layer, &owners);
                    let mut starts = [0, 0];
                    for (pass, (first, second)) in passes.into_iter().enumerate() {
                        let counts = [first.max(1), second];
                        let runs = [(starts[0], counts[0]), (starts[1], counts[1])];
                        let input = rows(&package, counts[0] + counts[1], seed + pass as u32);
                        split.pass(&runs, &input, tolerance)?;
                        starts = [starts[0] + counts[0], starts[1] + counts[1]];
                    }
                    Ok(())
                },
            )
            .unwrap_or_else(|error| panic!("{folder}, {weights:?}: {error}"));
    }
}

#[test]
fn what_was_missed_is_masked_until_it_is_there() {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let (package, _folder) = imported("tiny-hf", WeightFormat::F32);
    let shape = package.shape();
    let all = vec![(0..shape.kv_heads as u32).collect::<Vec<_>>(); shape.layers];
    let mut heads = AttentionHeads::load(&engine, &package, &all).unwrap();
    let mut run = |cache: &mut KvCache, position: usize| {
        let input = rows(&package, 1, position as u32 + 1);
        let mut partial = vec![0f32; shape.width];
        let part = Part {
            rows: 1,
            start: position,
            cache,
        };
        heads.run(1, &mut [part], &input, &mut partial).unwrap();
        partial
    };
    let new = || KvCache::new(shape, 64);
    let (mut whole, mut holed, mut without) = (new(), new(), new());
    for position in 0..20 {
        run(&mut whole, position);
        if position != 17 {
            run(&mut holed, position);
        }
    }
    assert!(holed.has_holes(1) && !holed.has_holes(0) && !whole.has_holes(1));
    // As if the tokens before and after it were all that there are, at the positions that they have.
    let masked = run(&mut holed, 20);
    let complete = run(&mut whole, 20);
    assert!(close(&masked, &complete, 1e-5).is_err(), "it counts");
    for position in (0..=20).filter(|position| *position != 17) {
        run(&mut without, position);
    }
    assert_eq!(run(&mut without, 20), masked);
    // Whatever lies there from a text before is not seen.
    let mut used = new();
    for position in 0..40 {
        run(&mut used, position);
    }
    used.truncate(0);
    for position in (0..=20).filter(|position| *position != 17) {
        run(&mut used, position);
    }
    assert_eq!(run(&mut used, 20), masked);

    run(&mut holed, 17);
    assert!(!holed.has_holes(1));
    assert_eq!(run(&mut holed, 20), complete);
}
