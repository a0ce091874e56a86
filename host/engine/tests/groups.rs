//! A layer computed in groups is the layer: partials of any split add up to the unsplit result. A head computed in slices of
//! the vocabulary tells what the whole head tells.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use halo_engine::{Engine, EngineError, EngineOptions, FeedForward, Head, KvCache, Likeliest};
use halo_models::{ImportOptions, Package, RandomOptions, Shape, WeightFormat, import, random};
use proptest::prelude::*;

fn packages() -> Vec<(Package, tempfile::TempDir, f32)> {
    let source = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/tests/data/tiny-hf"
    ));
    // The 4-bit product rounds its inputs to 8 bits by block; blocks lie within groups, so only summation order differs.
    [
        (WeightFormat::F32, 1e-4),
        (WeightFormat::Q4 { block: 128 }, 1e-4),
        (WeightFormat::Q8 { block: 32 }, 1e-4),
        (WeightFormat::F16, 1e-4),
    ]
    .into_iter()
    .map(|(weights, tolerance)| {
        let folder = tempfile::tempdir().unwrap();
        let options = ImportOptions {
            weights,
            ..ImportOptions::default()
        };
        (
            import(
                source,
                &folder.path().join("package"),
                &options,
                &mut |_| (),
            )
            .unwrap(),
            folder,
            tolerance,
        )
    })
    .collect()
}

#[test]
fn partials_of_any_split_add_up() {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    for (package, _folder, tolerance) in packages() {
        let (layers, width, groups) = (
            package.shape().layers,
            package.shape().width,
            package.groups(),
        );
        let whole = RefCell::new(FeedForward::load_all(&engine, &package).unwrap());
        let config = ProptestConfig {
            cases: 6,
            ..ProptestConfig::default()
        };
        proptest!(config, |(owners in prop::collection::vec(0usize..3, groups), layer in 0..layers, rows in 1usize..5, seed in 1u32..1000)| {
            let input: Vec<f32> = (0..rows * width).map(|i| ((i as f32 + 1.0) * seed as f32 * 0.37).sin()).collect();
            let mut expected = vec![0f32; input.len()];
            whole.borrow_mut().run(layer, &input, &mut expected).unwrap();
            let mut sum = vec![0f32; input.len()];
            for owner in 0..3 {
                let mut lists = vec![Vec::new(); layers];
                lists[layer] = (0..groups as u32).filter(|g| owners[*g as usize] == owner).collect();
                let mut part = FeedForward::load(&engine, &package, &lists).unwrap();
                let mut partial = vec![f32::NAN; input.len()];
                part.run(layer, &input, &mut partial).unwrap();
                sum.iter_mut().zip(&partial).for_each(|(s, p)| *s += p);
            }
            let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
            let worst = sum.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            prop_assert!(worst <= tolerance * largest, "off by {worst} of {largest}");
        });
    }
}

/// A package of one layer with random weights.
fn random_package(folder: &Path, shape: &Shape, weights: WeightFormat, group: usize) -> Package {
    let options = RandomOptions {
        weights,
        group_size: Some(group),
        overwrite: true,
        ..RandomOptions::default()
    };
    random(shape, &folder.join("random"), &options, &mut |_| ()).unwrap()
}

fn shape(width: usize, feed_forward: usize, vocabulary: usize) -> Shape {
    Shape {
        layers: 1,
        width,
        heads: 1,
        kv_heads: 1,
        head_width: 16,
        feed_forward,
        vocabulary,
        context: 16,
        rope_theta: 10_000.0,
        rope_scaling: None,
        sliding_window: None,
        qkv_bias: false,
        output_bias: false,
        qk_norm: false,
        norm_epsilon: 1e-5,
        tied_head: true,
        bos: None,
        eos: Vec::new(),
    }
}

fn formats() -> impl Strategy<Value = WeightFormat> {
    prop::sample::select(vec![
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::Q4 { block: 32 },
        WeightFormat::Q4 { block: 128 },
        WeightFormat::Q8 { block: 32 },
    ])
}

/// Numbers without a pattern that a block could fall in with.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let angle = |i: usize| (i as f32 + 1.0) * seed as f32 * 0.37;
    (0..count).map(|i| angle(i).sin()).collect()
}

/// How far numbers are off, in shares of the largest expected.
fn off(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0f32, f32::max) / largest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn layers_of_any_shape_can_be_split(
        (width, group, weights) in (1usize..9, prop::sample::select(vec![16usize, 32, 48, 128]), formats()),
        owners in prop::collection::vec(0usize..4, 1..9),
        (rows, seed) in (1usize..4, 1u32..1000),
    ) {
        let engine = Engine::start(&EngineOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let shape = shape(16 * width, group * owners.len(), 300);
        let package = random_package(folder.path(), &shape, weights, group);
        let input = numbers(rows * shape.width, seed);
        let partial = |groups: Vec<u32>| {
            let mut part = FeedForward::load(&engine, &package, &[groups]).unwrap();
            let mut partial = vec![f32::NAN; input.len()];
            part.run(0, &input, &mut partial).unwrap();
            partial
        };
        let expected = partial((0..owners.len() as u32).collect());
        let mut sum = vec![0f32; input.len()];
        for owner in 0..4 {
            let groups = (0..).zip(&owners).filter(|(_, o)| **o == owner).map(|(g, _)| g);
            let partial = partial(groups.collect());
            sum.iter_mut().zip(&partial).for_each(|(s, p)| *s += p);
        }
        let off = off(&sum, &expected);
        prop_assert!(off <= 1e-4, "off by {off} of the largest");
    }

    #[test]
    fn the_head_can_be_split_over_the_vocabulary(
        (width, vocabulary, weights) in (1usize..9, 260usize..700, formats()),
        (cuts, count) in (prop::collection::btree_set(1usize..260, 0..4), 1usize..40),
        (rows, seed) in (1usize..4, 1u32..1000),
    ) {
        let engine = Engine::start(&EngineOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let shape = shape(16 * width, 16, vocabulary);
        let package = random_package(folder.path(), &shape, weights, 16);
        let hidden = numbers(rows * shape.width, seed);
        let logits = |slice: Range<usize>| {
            let mut logits = Vec::new();
            let mut head = Head::load_slice(&engine, &package, slice).unwrap();
            head.run(&hidden, &mut logits).unwrap();
            logits
        };
        let whole = logits(0..vocabulary);
        let ends: Vec<usize> = cuts.into_iter().chain([vocabulary]).collect();
        let mut start = 0;
        let slices = ends.into_iter().map(|end| {
            let slice = start..end;
            start = end;
            (slice.clone(), logits(slice))
        });
        let slices: Vec<_> = slices.collect();
        for row in 0..rows {
            let parts: Vec<_> = slices.iter().map(|(slice, logits)| {
                let row = &logits[row * slice.len()..][..slice.len()];
                Likeliest::of(row, slice.start as u32, count)
            }).collect();
            let found = Likeliest::combine(&parts, count);
            let row = &whole[row * vocabulary..][..vocabulary];
            let expected = Likeliest::of(row, 0, count);
            prop_assert!((found.log_sum - expected.log_sum).abs() <= 1e-4);
            prop_assert_eq!(found.tokens.len(), count);
            for (found, expected) in found.tokens.iter().zip(&expected.tokens) {
                // Of tokens that are as likely but for rounding, any may come first.
                prop_assert!((found.1 - expected.1).abs() <= 1e-4, "{found:?} {expected:?}");
                prop_assert!((found.1 - row[found.0 as usize]).abs() <= 1e-4);
            }
        }
    }
}

#[test]
fn wrong_sizes_and_indices_are_errors() {
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let (package, _folder, _) = packages().swap_remove(1);
    let layers = package.shape().layers;
    let too_many = vec![vec![package.groups() as u32]; layers];
    assert!(matches!(
        FeedForward::load(&engine, &package, &too_many),
        Err(EngineError::Mismatch { .. })
    ));
    assert!(matches!(
        FeedForward::load(&engine, &package, &[]),
        Err(EngineError::Mismatch { .. })
    ));
    let mut whole = FeedForward::load_all(&engine, &package).unwrap();
    assert!(matches!(
        whole.run(layers, &[0.0; 256], &mut [0.0; 256]),
        Err(EngineError::Mismatch { .. })
    ));
    assert!(matches!(
        whole.run(0, &[0.0; 255], &mut [0.0; 255]),
        Err(EngineError::Mismatch { .. })
    ));
    assert!(matches!(
        whole.run(0, &[], &mut []),
        Err(EngineError::Mismatch { .. })
    ));

    for slice in [0..2049, 7..7] {
        assert!(matches!(
            Head::load_slice(&engine, &package, slice),
            Err(EngineError::Mismatch { .. })
        ));
    }

    let mut backbone = halo_engine::Backbone::load(&engine, &package).unwrap();
    let mut cache = KvCache::new(package.shape(), 2);
    assert!(matches!(
        backbone.forward(&[0, 1, 2], &mut cache, &mut whole),
        Err(EngineError::CacheFull {
            capacity: 2,
            wanted: 3
        })
    ));
    assert!(matches!(
        backbone.forward(&[1 << 20], &mut cache, &mut whole),
        Err(EngineError::Package(_))
    ));
}
