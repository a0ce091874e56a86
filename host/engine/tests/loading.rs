//! Groups that come into memory while others compute, or that never stay there.

use std::path::Path;
use std::time::Duration;

use halo_engine::{
    Engine, EngineError, EngineOptions, FeedForward, LoadOrder, StreamPlan, packed_group_bytes,
};
use halo_models::Package;
use proptest::prelude::*;

fn tiny() -> (Engine, Package) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");
    let engine = Engine::start(&EngineOptions::default()).unwrap();
    (engine, Package::open(Path::new(path)).unwrap())
}

/// Something that differs by group, as calibration would.
fn importance(package: &Package) -> Vec<f32> {
    let count = package.shape().layers * package.groups();
    (0..count).map(|i| ((i * 37) % 101) as f32 + 1.0).collect()
}

fn input(package: &Package, rows: usize) -> Vec<f32> {
    let count = rows * package.shape().width;
    (0..count)
        .map(|i| ((i * 29) % 17) as f32 / 8.0 - 1.0)
        .collect()
}

fn pass(feed_forward: &mut FeedForward, package: &Package, input: &[f32]) -> Vec<Vec<f32>> {
    (0..package.shape().layers)
        .map(|layer| {
            let mut partial = vec![1.0; input.len()];
            feed_forward.run(layer, input, &mut partial).unwrap();
            partial
        })
        .collect()
}

/// The sum of two nodes' partials.
fn sum(a: Vec<Vec<f32>>, b: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let add = |(a, b): (Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
    a.into_iter().zip(b).map(add).collect()
}

fn close(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    let greatest = b.iter().flatten().fold(0f32, |m, v| m.max(v.abs()));
    let mut pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.all(|(a, b)| (a - b).abs() <= 1e-2 * greatest)
}

#[test]
fn groups_loaded_beside_join_until_nothing_is_missing() {
    let (engine, package) = tiny();
    let importance = importance(&package);
    let order = LoadOrder::new(&package, Some(&importance), 0.5);
    let expected: f32 = 1.0 - order.rest.iter().map(|b| b.importance).sum::<f32>() / 6.0;
    assert!((0.5..0.6).contains(&expected), "{expected}");

    let input = input(&package, 3);
    let mut first = FeedForward::load(&engine, &package, &order.first).unwrap();
    let mut whole = FeedForward::load_all(&engine, &package).unwrap();
    let mut growing = FeedForward::load_beside(&engine, &package, order).unwrap();
    assert!((growing.loaded().importance - expected).abs() < 1e-5);
    let whole = pass(&mut whole, &package, &input);
    assert!(!close(&pass(&mut first, &package, &input), &whole));
    let mut last = Vec::new();
    while growing.loaded().batches > 0 {
        std::thread::sleep(Duration::from_millis(1));
        last = pass(&mut growing, &package, &input);
    }
    assert_eq!(growing.loaded().importance, 1.0);
    assert!(close(&last, &whole) || close(&pass(&mut growing, &package, &input), &whole));
}

#[test]
fn streamed_groups_compute_what_resident_ones_do() {
    let (engine, package) = tiny();
    let importance = importance(&package);
    let budget =
        package.shape().layers as u64 * package.groups() as u64 * packed_group_bytes(&package);
    for share in [40, 70, 100] {
        let plan = StreamPlan::new(&package, Some(&importance), budget * share / 100).unwrap();
        let mut resident = FeedForward::load(&engine, &package, &plan.resident).unwrap();
        let mut others = FeedForward::load(&engine, &package, &plan.streamed).unwrap();
        let mut streaming =
            FeedForward::stream(&engine, &package, &plan.resident, plan.streamed.clone()).unwrap();
        for rows in [1, 5, 1] {
            let input = input(&package, rows);
            let expected = sum(
                pass(&mut resident, &package, &input),
                &pass(&mut others, &package, &input),
            );
            assert!(close(&pass(&mut streaming, &package, &input), &expected));
            // A pass that is given up half-way does not confuse the next.
            let mut partial = vec![0.0; input.len()];
            streaming.run(0, &input, &mut partial).unwrap();
            streaming.run(1, &input, &mut partial).unwrap();
        }
        let read = streaming.streamed().unwrap().bytes;
        assert_eq!(
            read > 0,
            plan.streamed.iter().any(|groups| !groups.is_empty())
        );
    }
}

#[test]
fn a_stream_that_nobody_reads_any_more_ends() {
    let (engine, package) = tiny();
    let all = vec![(0..package.groups() as u32).collect(); package.shape().layers];
    let none = vec![Vec::new(); package.shape().layers];
    let threads = || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter(|task| {
                let comm = task.as_ref().unwrap().path().join("comm");
                std::fs::read_to_string(comm).is_ok_and(|name| name.trim() == "halo-stream")
            })
            .count()
    };
    drop(FeedForward::stream(&engine, &package, &none, all).unwrap());
    let mut waited = 0;
    while threads() > 0 {
        waited += 1;
        assert!(waited < 10_000, "the reading thread is still there");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn indices_that_do_not_exist_are_refused_before_anything_starts() {
    let (engine, package) = tiny();
    let none = vec![Vec::new(); package.shape().layers];
    let mut wrong = none.clone();
    wrong[2].push(package.groups() as u32);
    for result in [
        FeedForward::stream(&engine, &package, &none, wrong.clone()),
        FeedForward::load(&engine, &package, &wrong),
    ] {
        assert!(
            matches!(result, Err(EngineError::Mismatch { .. })),
            "{result:?}"
        );
    }
}

proptest! {
    #[test]
    fn plans_have_every_group_once_and_keep_the_budget(percent in 0u64..130, share in 0f32..=1.0) {
        let (_, package) = tiny();
        let importance = importance(&package);
        let all: Vec<Vec<u32>> =
            vec![(0..package.groups() as u32).collect(); package.shape().layers];
        let merged = |a: &[Vec<u32>], b: &[Vec<u32>]| -> Vec<Vec<u32>> {
            a.iter().zip(b).map(|(a, b)| {
                let mut merged = [&a[..], b].concat();
                merged.sort_unstable();
                merged
            }).collect()
        };
        let group = packed_group_bytes(&package);
        let whole = group * (package.shape().layers * package.groups()) as u64;
        match StreamPlan::new(&package, Some(&importance), whole * percent / 100) {
            Ok(plan) => {
                prop_assert_eq!(merged(&plan.resident, &plan.streamed), all.clone());
                let resident: usize = plan.resident.iter().map(Vec::len).sum();
                let mut streamed: Vec<usize> = plan.streamed.iter().map(Vec::len).collect();
                streamed.sort_unstable();
                let in_flight: usize = streamed.iter().rev().take(2).sum();
                let bytes = resident as u64 * group + in_flight as u64 * package.group_bytes();
                prop_assert!(bytes <= whole * percent / 100);
            }
            Err(error) => {
                let small = matches!(error, EngineError::MemoryTooSmall { .. });
                prop_assert!(small);
                prop_assert!(percent < 34, "{percent} % is enough for two of six layers");
            }
        }
        let order = LoadOrder::new(&package, Some(&importance), share);
        let mut rest = vec![Vec::new(); package.shape().layers];
        for batch in &order.rest {
            rest[batch.layer].extend(&batch.groups);
        }
        prop_assert_eq!(merged(&order.first, &rest), all);
    }
}
