mod graph;
mod head_cache;
mod heads;
mod kernel;
mod layers;
mod operator;

use halo_models::Package;

use crate::{Engine, EngineError};

pub(crate) use head_cache::HeadCache;
pub use heads::AttentionHeads;
use layers::Layers;
pub use layers::Part;

/// Every layer's attention, with the norms before and after it and its residual.
///
/// ```text
/// hidden ─┬─ norm ─ q, k, v ─ rotary + attention over the KV cache ─ o ─ + ─┬─ hidden (residual stream after attention)
///         └──────────────────────────────────────────────────────────────┘ └─ norm ─ normed (the feed-forward's input)
/// ```
///
/// The products take the rows of all generations of a pass at once, since reading the weights is what they cost; the attention
/// in the middle is done for each generation by itself, over its own cache.
#[derive(Debug)]
pub struct Attention(Layers);

impl Attention {
    /// Builds all layers' graphs from the package's weights.
    ///
    /// # Errors
    ///
    /// ONNX Runtime refuses a graph.
    pub fn load(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        let load = |layer, operators| {
            let region = package.attention_region(layer);
            region.read()?;
            let weights = package.attention(layer);
            let session = graph::whole(engine, package, layer, &weights, operators);
            region.release();
            session
        };
        let layers = Layers::load(
            engine,
            package,
            &["hidden", "normed"],
            |layer, operators| Some(load(layer, operators)),
        );
        Ok(Self(layers?))
    }

    /// Runs one layer's attention for the rows of `hidden` (`[rows, width]`, the residual stream), which are those of `parts`
    /// one after another. Afterwards `hidden` is the residual stream after attention and `normed` the feed-forward's input.
    /// The caches' lengths do not change: call [`KvCache::advance`](crate::KvCache::advance) after the last layer.
    ///
    /// # Errors
    ///
    /// A cache is too short, or ONNX Runtime fails.
    pub fn run(
        &mut self,
        layer: usize,
        parts: &mut [Part<'_>],
        hidden: &mut [f32],
        normed: &mut [f32],
    ) -> Result<(), EngineError> {
        let outputs = self.0.run(layer, parts, hidden)?;
        for (values, output) in [hidden, normed].into_iter().zip(outputs) {
            values.copy_from_slice(output.extract_tensor().1);
        }
        Ok(())
    }
}
