use halo_models::Package;
use ort::editor::ONNX_DOMAIN;
use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{Tensor, TensorElementType};

use crate::error::Context;
use crate::graph::{ANY, GraphBuilder, MICROSOFT, Value};
use crate::projection::Projection;
use crate::weights::Weights;
use crate::{Engine, EngineError, KvCache};

/// Every layer's attention, with the norms before and after it and its residual.
///
/// ```text
/// hidden ─┬─ norm ─ q, k, v ─ rotary + attention over the KV cache ─ o ─ + ─┬─ hidden (residual stream after attention)
///         └──────────────────────────────────────────────────────────────┘ └─ norm ─ normed (the feed-forward's input)
/// ```
#[derive(Debug)]
pub struct Attention {
    width: usize,
    layers: Vec<Session>,
}

/// Buffers and bindings of a pass with a given number of rows. Making them once keeps allocation out of decoding.
#[derive(Debug)]
pub(crate) struct Pass {
    rows: usize,
    input: Tensor<f32>,
    hidden: Tensor<f32>,
    normed: Tensor<f32>,
    bindings: Vec<IoBinding>,
}

impl Attention {
    /// Builds all layers' graphs from the package's weights.
    ///
    /// # Errors
    ///
    /// ONNX Runtime refuses a graph.
    pub fn load(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        let layers = (0..package.shape().layers)
            .map(|layer| session(engine, package, layer))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            width: package.shape().width,
            layers,
        })
    }

    /// Runs one layer's attention for the rows of `hidden` (`[rows, width]`, the residual stream), which follow the tokens
    /// already in `cache`. Afterwards `hidden` is the residual stream after attention and `normed` the feed-forward's input.
    /// The cache's length does not change: call [`KvCache::advance`] after the last layer.
    ///
    /// # Errors
    ///
    /// The cache is too short, or ONNX Runtime fails.
    pub fn run(
        &mut self,
        layer: usize,
        cache: &mut KvCache,
        hidden: &mut [f32],
        normed: &mut [f32],
    ) -> Result<(), EngineError> {
        let rows = hidden.len() / self.width;
        if hidden.len() != rows * self.width || normed.len() != hidden.len() || rows == 0 {
            return Err(EngineError::Mismatch {
                what: "values of the attention's rows",
                expected: rows * self.width,
                got: normed.len(),
            });
        }
        let total = cache.length() + rows;
        if total > cache.capacity() {
            return Err(EngineError::CacheFull {
                capacity: cache.capacity(),
                wanted: total,
            });
        }
        let what = || format!("the attention of layer {layer}");
        cache.last_position.extract_tensor_mut().1[0] = total as i32 - 1;
        cache.total.extract_tensor_mut().1[0] = total as i32;
        let slot = if rows == 1 {
            &mut cache.single
        } else {
            &mut cache.several
        };
        let mut pass = match slot.take().filter(|p| p.rows == rows) {
            Some(pass) => pass,
            None => self
                .bind(cache, rows)
                .context(|| format!("the bindings of {rows} rows"))?,
        };
        pass.input.extract_tensor_mut().1.copy_from_slice(hidden);
        self.layers[layer]
            .run_binding(&pass.bindings[layer])
            .context(what)?;
        hidden.copy_from_slice(pass.hidden.extract_tensor().1);
        normed.copy_from_slice(pass.normed.extract_tensor().1);
        *(if rows == 1 {
            &mut cache.single
        } else {
            &mut cache.several
        }) = Some(pass);
        Ok(())
    }

    fn bind(&self, cache: &mut KvCache, rows: usize) -> ort::Result<Pass> {
        let allocator = Allocator::default();
        let buffer = || Tensor::<f32>::new(&allocator, [1, rows, self.width]);
        let mut pass = Pass {
            rows,
            input: buffer()?,
            hidden: buffer()?,
            normed: buffer()?,
            bindings: Vec::with_capacity(self.layers.len()),
        };
        for (session, layer) in self.layers.iter().zip(&mut cache.layers) {
            let mut binding = session.create_binding()?;
            binding.bind_input("x", &pass.input)?;
            binding.bind_input("past_keys", &layer.keys)?;
            binding.bind_input("past_values", &layer.values)?;
            binding.bind_input("last_position", &cache.last_position)?;
            binding.bind_input("total", &cache.total)?;
            binding.bind_input("cos", &cache.cos)?;
            binding.bind_input("sin", &cache.sin)?;
            binding.bind_output("hidden", &mut pass.hidden)?;
            binding.bind_output("normed", &mut pass.normed)?;
            // Past and present are one buffer: the operator then appends in place instead of copying the whole cache.
            binding.bind_output("keys", &mut layer.keys)?;
            binding.bind_output("values", &mut layer.values)?;
            pass.bindings.push(binding);
        }
        Ok(pass)
    }
}

fn session(engine: &Engine, package: &Package, layer: usize) -> Result<Session, EngineError> {
    use TensorElementType::{Float32, Int32};
    let shape = package.shape();
    let weights = package.attention(layer);
    let [width, kv_heads, head_width] =
        [shape.width, shape.kv_heads, shape.head_width].map(|n| n as i64);
    let rows = [1, ANY, width];
    let cache = [1, kv_heads, ANY, head_width];
    let table = [ANY, head_width / 2];
    let mut graph = GraphBuilder::new(
        format!("the attention of layer {layer}"),
        &[
            ("x", Float32, &rows),
            ("past_keys", Float32, &cache),
            ("past_values", Float32, &cache),
            ("last_position", Int32, &[1]),
            ("total", Int32, &[1]),
            ("cos", Float32, &table),
            ("sin", Float32, &table),
        ],
        &[
            ("hidden", Float32, &rows),
            ("normed", Float32, &rows),
            ("keys", Float32, &cache),
            ("values", Float32, &cache),
        ],
    )?;
    graph.constant("norm", &[shape.width], &weights.norm)?;
    graph.constant(
        "feed_forward_norm",
        &[shape.width],
        &package.feed_forward_norm(layer),
    )?;
    let epsilon = ("epsilon", Value::Float(shape.norm_epsilon));
    graph.node(
        "SimplifiedLayerNormalization",
        ONNX_DOMAIN,
        &["x", "norm"],
        &["y"],
        &[epsilon, ("axis", Value::Int(-1))],
    )?;
    let mut project = |name, matrix, bias, norm| {
        let projection = Projection {
            name,
            matrix,
            bias,
            norm,
        };
        projection.add_to(&mut graph, "y", shape.norm_epsilon)
    };
    let query = project(
        "query",
        weights.query,
        weights.query_bias,
        weights.query_norm,
    )?;
    let key = project("key", weights.key, weights.key_bias, weights.key_norm)?;
    let value = project("value", weights.value, weights.value_bias, None)?;
    let mut attributes = vec![
        ("num_heads", Value::Int(shape.heads as i64)),
        ("kv_num_heads", Value::Int(shape.kv_heads as i64)),
        ("do_rotary", Value::Int(1)),
    ];
    // ONNX Runtime counts the position itself, as we do.
    if let Some(window) = shape.sliding_window {
        attributes.push(("local_window_size", Value::Int(window as i64)));
    }
    graph.node(
        "GroupQueryAttention",
        MICROSOFT,
        &[
            &query,
            &key,
            &value,
            "past_keys",
            "past_values",
            "last_position",
            "total",
            "cos",
            "sin",
        ],
        &["a", "keys", "values"],
        &attributes,
    )?;
    graph.product("output", "a", "o", &Weights::stack(&[weights.output])?)?;
    let mut inputs = vec!["o", "x", "feed_forward_norm"];
    if let Some(bias) = weights.output_bias {
        graph.constant("output_bias", &[shape.width], &bias)?;
        inputs.push("output_bias");
    }
    graph.node(
        "SkipSimplifiedLayerNormalization",
        MICROSOFT,
        &inputs,
        &["normed", "", "", "hidden"],
        &[epsilon],
    )?;
    graph.build(engine)
}
