use std::ops::Range;
use std::sync::Arc;

use halo_models::{Attention, Columns, Matrix, Package};
use ort::editor::ONNX_DOMAIN;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::value::TensorElementType::Float32;

use crate::graph::{ANY, GraphBuilder, HALO, MICROSOFT, Value};
use crate::weights::Weights;
use crate::{Engine, EngineError};

/// One layer's whole attention: from the residual stream `x` to `hidden`, the stream after it, and `normed`, the feed-forward's input.
pub(super) fn whole(
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
    let biases = [&weights.query_bias, &weights.key_bias, &weights.value_bias];
    let bias = match biases {
        [Some(query), Some(key), Some(value)] => Some([&query[..], key, value].concat()),
        _ => None,
    };
    attended(&mut graph, "y", &matrices, bias.as_deref())?;
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

/// Some KV heads of one layer's attention: from its normed input `x` to `partial`, what they add to the residual stream, without
/// the output's bias.
pub(super) fn part(
    engine: &Engine,
    package: &Package,
    layer: usize,
    heads: &[u32],
    attend: Arc<OperatorDomain>,
) -> Result<Session, EngineError> {
    let shape = package.shape();
    let weights = package.attention(layer);
    let rows = [1, ANY, shape.width as i64];
    let mut graph = GraphBuilder::new(
        format!("some heads of the attention of layer {layer}"),
        &[("x", Float32, &rows)],
        &[("partial", Float32, &rows)],
    )?;
    let keys = |head: &u32| span(*head, shape.head_width);
    let queries = |head: &u32| span(*head, shape.heads / shape.kv_heads * shape.head_width);
    let matrices: Vec<Matrix<'_>> = [
        heads
            .iter()
            .map(|h| weights.query.slice(queries(h)))
            .collect::<Vec<_>>(),
        heads.iter().map(|h| weights.key.slice(keys(h))).collect(),
        heads.iter().map(|h| weights.value.slice(keys(h))).collect(),
    ]
    .concat();
    let bias = match (&weights.query_bias, &weights.key_bias, &weights.value_bias) {
        (Some(query), Some(key), Some(value)) => Some(
            [
                heads
                    .iter()
                    .flat_map(|h| &query[queries(h)])
                    .copied()
                    .collect::<Vec<_>>(),
                heads.iter().flat_map(|h| &key[keys(h)]).copied().collect(),
                heads
                    .iter()
                    .flat_map(|h| &value[keys(h)])
                    .copied()
                    .collect(),
            ]
            .concat(),
        ),
        _ => None,
    };
    attended(&mut graph, "x", &matrices, bias.as_deref())?;
    let columns: Vec<Columns> = heads
        .iter()
        .map(|h| weights.output.columns(queries(h)))
        .collect();
    let columns: Vec<Matrix<'_>> = columns.iter().map(Columns::matrix).collect();
    graph.product("output", "a", "partial", Weights::join(&columns)?)?;
    graph.build(engine, Some(attend))
}

/// A head's elements among those of all.
fn span(head: u32, width: usize) -> Range<usize> {
    head as usize * width..(head as usize + 1) * width
}

/// From a normed input to `a`, what the heads have attended to: `matrices` are those of queries, keys and values.
fn attended(
    graph: &mut GraphBuilder,
    input: &str,
    matrices: &[Matrix<'_>],
    bias: Option<&[f32]>,
) -> Result<(), EngineError> {
    graph.stacked("qkv", input, "product", matrices)?;
    let product = match bias {
        Some(bias) => {
            graph.vector("bias", bias)?;
            graph.node("Add", ONNX_DOMAIN, &["product", "bias"], &["biased"], &[])?;
            "biased"
        }
        None => "product",
    };
    graph.node("Attend", HALO, &[product], &["a"], &[])
}
