//! What the tensors of a package are called where they come from.

use crate::layout::{self, FINAL_NORM};

/// Names of one tensor.
#[derive(Clone, Copy, Debug)]
struct Names {
    package: &'static str,
    /// In Hugging Face's layout.
    hugging_face: &'static str,
    /// In a GGUF file.
    gguf: &'static str,
}

const fn names(package: &'static str, hugging_face: &'static str, gguf: &'static str) -> Names {
    Names {
        package,
        hugging_face,
        gguf,
    }
}

const OUTER: [Names; 3] = [
    names(
        "embedding",
        "model.embed_tokens.weight",
        "token_embd.weight",
    ),
    names(FINAL_NORM, "model.norm.weight", "output_norm.weight"),
    names("head", "lm_head.weight", "output.weight"),
];

/// After `model.layers.N.` and `blk.N.`.
#[rustfmt::skip]
const LAYER: [Names; 15] = [
    names(layout::ATTENTION_NORM, "input_layernorm.weight", "attn_norm.weight"),
    names("attention.query", "self_attn.q_proj.weight", "attn_q.weight"),
    names("attention.key", "self_attn.k_proj.weight", "attn_k.weight"),
    names("attention.value", "self_attn.v_proj.weight", "attn_v.weight"),
    names("attention.output", "self_attn.o_proj.weight", "attn_output.weight"),
    names(layout::QUERY_BIAS, "self_attn.q_proj.bias", "attn_q.bias"),
    names(layout::KEY_BIAS, "self_attn.k_proj.bias", "attn_k.bias"),
    names(layout::VALUE_BIAS, "self_attn.v_proj.bias", "attn_v.bias"),
    names(layout::OUTPUT_BIAS, "self_attn.o_proj.bias", "attn_output.bias"),
    names(layout::QUERY_NORM, "self_attn.q_norm.weight", "attn_q_norm.weight"),
    names(layout::KEY_NORM, "self_attn.k_norm.weight", "attn_k_norm.weight"),
    names(layout::FEED_FORWARD_NORM, "post_attention_layernorm.weight", "ffn_norm.weight"),
    names("feed_forward.gate", "mlp.gate_proj.weight", "ffn_gate.weight"),
    names("feed_forward.up", "mlp.up_proj.weight", "ffn_up.weight"),
    names("feed_forward.down", "mlp.down_proj.weight", "ffn_down.weight"),
];

/// A tensor's name in Hugging Face's layout, by that in a package.
pub(super) fn hugging_face(layer: Option<usize>, package: &str) -> String {
    match (layer, find(layer, package)) {
        (Some(layer), Some(names)) => format!("model.layers.{layer}.{}", names.hugging_face),
        (_, names) => names.map_or(package, |names| names.hugging_face).into(),
    }
}

/// A tensor's name in a GGUF file, by that in a package.
pub(super) fn gguf(layer: Option<usize>, package: &str) -> String {
    match (layer, find(layer, package)) {
        (Some(layer), Some(names)) => format!("blk.{layer}.{}", names.gguf),
        (_, names) => names.map_or(package, |names| names.gguf).into(),
    }
}

fn find(layer: Option<usize>, package: &str) -> Option<&'static Names> {
    let table = match layer {
        None => &OUTER[..],
        Some(_) => &LAYER,
    };
    table.iter().find(|names| names.package == package)
}
