//! How fast this machine computes neuron groups.

use std::fs;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use halo_engine::{Engine, EngineError, FeedForward};
use halo_models::Package;

/// Groups of a layer measured with: enough that starting a product does not count for much.
const SAMPLE: usize = 16;

/// Bytes of weights measured with, if the model has as many, at least and at most: more than a processor's cache holds, as when
/// decoding.
const WEIGHTS: RangeInclusive<u64> = (32 << 20)..=(256 << 20);

/// Where Linux tells the sizes of a processor's caches.
const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";

/// How long is measured, and how often. A machine whose time is bounded to a share of each period is fast until its share is used,
/// so that one run says nothing. The fastest counts, since what else the machine does makes it slower.
const WINDOW: Duration = Duration::from_millis(60);
const WINDOWS: usize = 3;

/// Measures groups per second while decoding, with this package on this engine.
///
/// # Errors
///
/// ONNX Runtime fails.
pub fn measure(engine: &Engine, package: &Package) -> Result<f32, EngineError> {
    let count = package.groups().min(SAMPLE);
    let layer_bytes = package.group_bytes().saturating_mul(count as u64).max(1);
    let weights = (2 * cache_bytes()).clamp(*WEIGHTS.start(), *WEIGHTS.end());
    let layers = (weights / layer_bytes).clamp(1, package.shape().layers as u64) as usize;
    let mut groups = vec![Vec::new(); package.shape().layers];
    groups[..layers].fill((0..count as u32).collect());
    let mut feed_forward = FeedForward::load(engine, package, &groups)?;
    let width = package.shape().width;
    let (input, mut output) = (vec![0.5f32; width], vec![0f32; width]);
    let mut fastest = 0f64;
    for _ in 0..WINDOWS {
        let began = Instant::now();
        let mut runs = 0;
        while began.elapsed() < WINDOW {
            feed_forward.run(runs % layers, &input, &mut output)?;
            runs += 1;
        }
        fastest = fastest.max((runs * count) as f64 / began.elapsed().as_secs_f64());
    }
    Ok(fastest as f32)
}

/// Bytes of the largest cache, as far as the machine tells.
fn cache_bytes() -> u64 {
    let Ok(caches) = fs::read_dir(CACHES) else {
        return 0;
    };
    let sizes = caches
        .filter_map(|cache| fs::read_to_string(cache.ok()?.path().join("size")).ok())
        .filter_map(|size| kibibytes(size.trim()));
    sizes.max().unwrap_or(0).saturating_mul(1024)
}

/// Of a cache's size as Linux writes it.
fn kibibytes(size: &str) -> Option<u64> {
    size.strip_suffix('K')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_are_read() {
        assert_eq!(kibibytes("2048K"), Some(2048));
        assert_eq!(kibibytes(""), None);
        assert!(cache_bytes().is_multiple_of(1024));
    }
}
