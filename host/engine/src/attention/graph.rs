use std::sync::Arc;

use halo_models::{Attention, Package};
use ort::editor::ONNX_DOMAIN;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::value::TensorElementType::Float32;

use crate::graph::{ANY, GraphBuilder, HALO, MICROSOFT, Value};
use crate::{Engine, EngineError};

/// One layer's attention: from the residual stream `x` to `hidden`, the stream after it, and `normed`, the feed-forward's input.
pub(super) fn build(
    engine: &Engine,
    package: &Package,
    layer: usize,
    weights: &Attention<'_>,
    attend: Arc<OperatorDomain>,
) -> Result<Session, EngineError> {
    let shape = package.shape();
    let rows = [1, ANY, shape.width as i64];
    let mut graph = GraphBuilder::new(
        format!("the attention of layer {layer}"),
        &[("x", Float32, &rows)],
        &[("hidden", Float32, &rows), ("normed", Float32, &rows)],
    )?;
    let epsilon = ("epsilon", Value::Float(shape.norm_epsilon));
    graph.vector("norm", &weights.norm)?;
    graph.node(
        "SimplifiedLayerNormalization",
        ONNX_DOMAIN,
        &["x", "norm"],
        &["y"],
        &[epsilon, ("axis", Value::Int(-1))],
    )?;
    let matrices = [weights.query, weights.key, weights.value];
    graph.stacked("qkv", "y", "product", &matrices)?;
    let biases = [&weights.query_bias, &weights.key_bias, &weights.value_bias];
    let attended = match biases {
        [Some(query), Some(key), Some(value)] => {
            graph.vector("bias", &[&query[..], key, value].concat())?;
            graph.node("Add", ONNX_DOMAIN, &["product", "bias"], &["biased"], &[])?;
            "biased"
        }
        _ => "product",
    };
    graph.node("Attend", HALO, &[attended], &["a"], &[])?;
    graph.stacked("output", "a", "o", &[weights.output])?;
    graph.vector("feed_forward_norm", &package.feed_forward_norm(layer))?;
    let mut inputs = vec!["o", "x", "feed_forward_norm"];
    if let Some(bias) = &weights.output_bias {
        graph.vector("output_bias", bias)?;
        inputs.push("output_bias");
    }
    graph.node(
        "SkipSimplifiedLayerNormalization",
        MICROSOFT,
        &inputs,
        &["normed", "", "", "hidden"],
        &[epsilon],
    )?;
    graph.build(engine, Some(attend))
}
