//! The three graphs of an attention layer.

use halo_models::{Package, Shape};
use ort::editor::ONNX_DOMAIN;
use ort::session::Session;
use ort::value::TensorElementType::{Float32, Int32};

use crate::graph::{ANY, GraphBuilder, MICROSOFT, Value};
use crate::projection::Projection;
use crate::weights::Weights;
use crate::{Engine, EngineError};

/// From the residual stream `x` to queries, keys and values, `[1, rows, heads * head_width]` each.
pub(super) fn project(
    engine: &Engine,
    package: &Package,
    layer: usize,
) -> Result<Session, EngineError> {
    let shape = package.shape();
    let weights = package.attention(layer);
    let [query, key] = widths(shape);
    let mut graph = GraphBuilder::new(
        format!("the queries, keys and values of layer {layer}"),
        &[("x", Float32, &[1, ANY, shape.width as i64])],
        &[
            ("q", Float32, &[1, ANY, query]),
            ("k", Float32, &[1, ANY, key]),
            ("v", Float32, &[1, ANY, key]),
        ],
    )?;
    graph.vector("norm", &weights.norm)?;
    graph.node(
        "SimplifiedLayerNormalization",
        ONNX_DOMAIN,
        &["x", "norm"],
        &["y"],
        &[
            ("epsilon", Value::Float(shape.norm_epsilon)),
            ("axis", Value::Int(-1)),
        ],
    )?;
    let query = Projection {
        name: "query",
        matrix: weights.query,
        bias: weights.query_bias,
        norm: weights.query_norm,
    };
    let key = Projection {
        name: "key",
        matrix: weights.key,
        bias: weights.key_bias,
        norm: weights.key_norm,
    };
    let value = Projection {
        name: "value",
        matrix: weights.value,
        bias: weights.value_bias,
        norm: None,
    };
    for (projection, output) in [(query, "q"), (key, "k"), (value, "v")] {
        projection.add_to(&mut graph, "y", output, shape.norm_epsilon)?;
    }
    graph.build(engine)
}

/// Rotary embedding and attention of one generation's rows over its KV cache, which it appends to.
pub(super) fn attend(engine: &Engine, shape: &Shape) -> Result<Session, EngineError> {
    let [query, key] = widths(shape);
    let (query, key) = ([1, ANY, query], [1, ANY, key]);
    let [kv_heads, head_width] = [shape.kv_heads, shape.head_width].map(|n| n as i64);
    let cache = [1, kv_heads, ANY, head_width];
    let table = [ANY, head_width / 2];
    let inputs = [
        ("q", Float32, &query[..]),
        ("k", Float32, &key),
        ("v", Float32, &key),
        ("past_keys", Float32, &cache),
        ("past_values", Float32, &cache),
        ("last_position", Int32, &[1]),
        ("total", Int32, &[1]),
        ("cos", Float32, &table),
        ("sin", Float32, &table),
    ];
    let mut graph = GraphBuilder::new(
        "the attention over the KV cache".into(),
        &inputs,
        &[
            ("a", Float32, &query),
            ("keys", Float32, &cache),
            ("values", Float32, &cache),
        ],
    )?;
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
        &inputs.map(|(name, ..)| name),
        &["a", "keys", "values"],
        &attributes,
    )?;
    graph.build(engine)
}

/// From the attended values `a` and the residual stream `x` before to `hidden`, the stream after, and `normed`, the
/// feed-forward's input.
pub(super) fn output(
    engine: &Engine,
    package: &Package,
    layer: usize,
) -> Result<Session, EngineError> {
    let shape = package.shape();
    let [query, _] = widths(shape);
    let rows = [1, ANY, shape.width as i64];
    let mut graph = GraphBuilder::new(
        format!("the output of the attention of layer {layer}"),
        &[("a", Float32, &[1, ANY, query]), ("x", Float32, &rows)],
        &[("hidden", Float32, &rows), ("normed", Float32, &rows)],
    )?;
    graph.vector("feed_forward_norm", &package.feed_forward_norm(layer))?;
    let weights = package.attention(layer);
    graph.product("output", "a", "o", Weights::stack(&[weights.output])?)?;
    let mut inputs = vec!["o", "x", "feed_forward_norm"];
    if let Some(bias) = weights.output_bias {
        graph.vector("output_bias", &bias)?;
        inputs.push("output_bias");
    }
    graph.node(
        "SkipSimplifiedLayerNormalization",
        MICROSOFT,
        &inputs,
        &["normed", "", "", "hidden"],
        &[("epsilon", Value::Float(shape.norm_epsilon))],
    )?;
    graph.build(engine)
}

/// Of a row's queries, and of its keys or values.
fn widths(shape: &Shape) -> [i64; 2] {
    [shape.heads, shape.kv_heads].map(|heads| (heads * shape.head_width) as i64)
}
