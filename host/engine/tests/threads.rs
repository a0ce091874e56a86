//! All sessions share one pool. In a process of its own, since it counts the process's threads.

use std::path::Path;

use halo_engine::{Backbone, Engine, EngineOptions, FeedForward, KvCache};
use halo_models::Package;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn sessions_bring_no_threads_of_their_own() {
    let package = Package::open(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/tiny"
    )))
    .unwrap();
    let engine = Engine::start(&EngineOptions {
        threads: Some(3),
        ..EngineOptions::default()
    })
    .unwrap();
    let before = threads();
    let mut backbone = Backbone::load(&engine, &package).unwrap();
    let mut feed_forward = FeedForward::load_all(&engine, &package).unwrap();
    let mut cache = KvCache::new(package.shape(), 8);
    backbone
        .forward(&[0, 1, 2], &mut cache, &mut feed_forward)
        .unwrap();
    assert_eq!(threads(), before);
}
