//! What the tensors of a package are called in Hugging Face's layout.

/// The name of a layer's tensor, after `model.layers.N.`.
pub(super) fn of_layer(name: &str) -> &str {
    match name {
        "attention.norm" => "input_layernorm.weight",
        "attention.query" => "self_attn.q_proj.weight",
        "attention.key" => "self_attn.k_proj.weight",
        "attention.value" => "self_attn.v_proj.weight",
        "attention.output" => "self_attn.o_proj.weight",
        "attention.query_bias" => "self_attn.q_proj.bias",
        "attention.key_bias" => "self_attn.k_proj.bias",
        "attention.value_bias" => "self_attn.v_proj.bias",
        "attention.output_bias" => "self_attn.o_proj.bias",
        "attention.query_norm" => "self_attn.q_norm.weight",
        "attention.key_norm" => "self_attn.k_norm.weight",
        "feed_forward.norm" => "post_attention_layernorm.weight",
        "feed_forward.gate" => "mlp.gate_proj.weight",
        "feed_forward.up" => "mlp.up_proj.weight",
        "feed_forward.down" => "mlp.down_proj.weight",
        other => other,
    }
}
