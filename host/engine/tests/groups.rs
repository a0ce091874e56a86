//! A layer computed in groups is the layer: partials of any split add up to the unsplit result.

use std::cell::RefCell;
use std::path::Path;

use halo_engine::{Engine, EngineError, EngineOptions, FeedForward, KvCache};
use halo_models::{ImportOptions, Package, WeightFormat, import};
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

    let mut backbone = halo_engine::Backbone::load(&engine, &package).unwrap();
    let mut cache = KvCache::new(package.shape(), 2).unwrap();
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
