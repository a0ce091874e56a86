use halo_models::Package;

use super::graph;
use super::layers::{Layers, Part};
use crate::{Engine, EngineError};

/// Some KV heads of each layer's attention: maybe all, maybe none.
///
/// With each KV head go the query heads that share it: their rows of the products of queries, keys and values, and their columns
/// of the output's. The result of a layer is a *partial*: what these heads add to the residual stream. Those of heads that do not
/// overlap add up to the whole attention's, but for the output's bias.
#[derive(Debug)]
pub struct AttentionHeads {
    layers: Layers,
    heads: Vec<Vec<u32>>,
    norms: Vec<Norms>,
    epsilon: f32,
}

/// A layer's vectors around the heads.
#[derive(Debug)]
struct Norms {
    before: Vec<f32>,
    output_bias: Option<Vec<f32>>,
    after: Vec<f32>,
}

impl AttentionHeads {
    /// Builds the graphs of `heads`: a list of KV heads for each layer.
    ///
    /// # Errors
    ///
    /// An index or the number of lists does not fit the package, the disk does not give the weights, or ONNX Runtime refuses a
    /// graph.
    pub fn load(
        engine: &Engine,
        package: &Package,
        heads: &[Vec<u32>],
    ) -> Result<Self, EngineError> {
        let shape = package.shape();
        let mismatch = |what, expected, got| EngineError::Mismatch {
            what,
            expected,
            got,
        };
        if heads.len() != shape.layers {
            return Err(mismatch("layers of a placement", shape.layers, heads.len()));
        }
        let mut indices = heads.iter().flatten().map(|head| *head as usize);
        if let Some(head) = indices.find(|head| *head >= shape.kv_heads) {
            return Err(mismatch("index of a KV head", shape.kv_heads, head));
        }
        let load = |layer: usize, operators| {
            let region = package.attention_region(layer);
            region.read()?;
            let session = graph::part(engine, package, layer, &heads[layer], operators);
            region.release();
            session
        };
        let layers = Layers::load(engine, package, &["partial"], |layer, operators| {
            (!heads[layer].is_empty()).then(|| load(layer, operators))
        })?;
        let norms = (0..shape.layers).map(|layer| {
            let weights = package.attention(layer);
            Norms {
                before: weights.norm,
                output_bias: weights.output_bias,
                after: package.feed_forward_norm(layer),
            }
        });
        Ok(Self {
            layers,
            heads: heads.to_vec(),
            norms: norms.collect(),
            epsilon: shape.norm_epsilon,
        })
    }

    /// The KV heads, by layer.
    pub fn heads(&self) -> &[Vec<u32>] {
        &self.heads
    }

    /// Writes a layer's input for its heads, wherever they are computed: `hidden`, the residual stream, normed.
    pub fn norm(&self, layer: usize, hidden: &[f32], normed: &mut [f32]) {
        self.rms_norm(&self.norms[layer].before, hidden, normed);
    }

    /// Computes the partial of this node's heads of one layer: `normed` and `partial` are `[rows, width]`, of the rows of `parts`
    /// one after another. Zero where it has no head. The caches have as many heads as this has in each layer.
    ///
    /// # Errors
    ///
    /// A cache is too short or of other heads, the buffers do not fit, or ONNX Runtime fails.
    pub fn run(
        &mut self,
        layer: usize,
        parts: &mut [Part<'_>],
        normed: &[f32],
        partial: &mut [f32],
    ) -> Result<(), EngineError> {
        if partial.len() != normed.len() {
            return Err(EngineError::Mismatch {
                what: "values of the attention's partial",
                expected: normed.len(),
                got: partial.len(),
            });
        }
        if self.layers.has(layer) {
            let outputs = self.layers.run(layer, parts, normed)?;
            for output in outputs {
                partial.copy_from_slice(output.extract_tensor().1);
            }
            return Ok(());
        }
        partial.fill(0.0);
        for part in parts {
            part.cache.reserve(part.start.saturating_add(part.rows))?;
        }
        Ok(())
    }

    /// Ends a layer's attention: adds `sum`, the partials of all heads, to `hidden`, the residual stream, and writes the
    /// feed-forward's input to `normed`.
    pub fn finish(&self, layer: usize, sum: &[f32], hidden: &mut [f32], normed: &mut [f32]) {
        let norms = &self.norms[layer];
        hidden.iter_mut().zip(sum).for_each(|(h, s)| *h += s);
        if let Some(bias) = &norms.output_bias {
            let bias = bias.iter().cycle();
            hidden.iter_mut().zip(bias).for_each(|(h, b)| *h += b);
        }
        self.rms_norm(&norms.after, hidden, normed);
    }

    fn rms_norm(&self, gains: &[f32], input: &[f32], output: &mut [f32]) {
        let width = gains.len();
        for (input, output) in input.chunks(width).zip(output.chunks_mut(width)) {
            let mean = input.iter().map(|x| x * x).sum::<f32>() / width as f32;
            let factor = (mean + self.epsilon).sqrt().recip();
            for ((output, input), gain) in output.iter_mut().zip(input).zip(gains) {
                *output = input * factor * gain;
            }
        }
    }
}
