//! How fast this machine computes neuron groups.

use std::time::Instant;

use halo_engine::{Engine, EngineError, FeedForward};
use halo_models::Package;

/// Groups measured with: enough that starting a product does not count for much.
const SAMPLE: usize = 16;

/// Runs of the measurement; the fastest counts, since whatever disturbs a run makes it slower.
const RUNS: usize = 12;

/// Measures groups per second while decoding, with this package on this engine.
///
/// # Errors
///
/// ONNX Runtime fails.
pub fn measure(engine: &Engine, package: &Package) -> Result<f32, EngineError> {
    let mut groups = vec![Vec::new(); package.shape().layers];
    groups[0] = (0..package.groups().min(SAMPLE) as u32).collect();
    let count = groups[0].len();
    let mut feed_forward = FeedForward::load(engine, package, &groups)?;
    let width = package.shape().width;
    let (input, mut output) = (vec![0.5f32; width], vec![0f32; width]);
    let mut fastest = f64::INFINITY;
    for _ in 0..RUNS {
        let began = Instant::now();
        feed_forward.run(0, &input, &mut output)?;
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    Ok((count as f64 / fastest.max(1e-9)) as f32)
}
