"""Makes the GGUF files of this folder, with the `gguf` package of PyPI (0.19.0), which stands on NumPy and knows nothing of HALO.

    pip install gguf==0.19.0 safetensors && python make.py
"""

import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

rng = np.random.default_rng(2026)


def encodings():
    """Random blocks of every type that is read, and the numbers that they stand for."""
    writer = gguf.GGUFWriter("encodings.gguf", "none")
    names = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
    for kind in (Type[name] for name in names):
        weights, _ = gguf.GGML_QUANT_SIZES[kind]
        blocks = random_blocks(kind, 2, 2 * max(weights, 32))
        decoded = gguf.quants.dequantize(blocks, kind)
        assert np.isfinite(decoded).all(), kind
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.decoded", decoded.astype(np.float32))
    finish(writer)


def random_blocks(kind, rows, columns):
    """Any bytes, but a finite number wherever there is a scale, a minimum or a number by itself."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, columns // weights * size), dtype=np.uint8)
    for block in blocks.reshape(-1, size):
        halves = {1: range(0, size - 1, 2), 32: [0, 2], 256: [208] if kind == Type.Q6_K else [0, 2]}[weights]
        for at in halves:
            number = np.float16(rng.normal())
            block[at : at + 2] = np.frombuffer(number.tobytes(), np.uint8)
    return blocks


def mixed():
    """A model with a tensor of every type, which says nothing."""
    width, head, neurons, vocabulary = 256, 16, 32, 40
    writer = gguf.GGUFWriter("mixed.gguf", "llama")
    hyperparameters(writer, 2, 64, width, neurons, 1, 1, head, 10000.0, 2.0**-17)
    writer.add_tensor("token_embd.weight", random_blocks(Type.Q6_K, vocabulary, width), raw_dtype=Type.Q6_K)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer, kinds in enumerate(["Q4_K Q5_K Q6_K BF16 Q4_0 Q4_1 Q5_0", "Q8_0 Q5_1 F32 F16 Q6_K Q5_K Q8_0"]):
        for name in ["attn_norm", "ffn_norm"]:
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
        shapes = {
            "attn_q": [head, width],
            "attn_k": [head, width],
            "attn_v": [head, width],
            "attn_output": [width, head],
            "ffn_gate": [neurons, width],
            "ffn_up": [neurons, width],
            "ffn_down": [width, neurons],
        }
        for kind, (name, shape) in zip(kinds.split(), shapes.items()):
            writer.add_tensor(f"blk.{layer}.{name}.weight", random_blocks(Type[kind], *shape), raw_dtype=Type[kind])
    finish(writer)


def hyperparameters(writer, layers, context, width, neurons, heads, kv_heads, head, theta, epsilon):
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(neurons)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(epsilon)


def small():
    """A model with random weights, once as a folder in Hugging Face's layout and once as llama.cpp's converter would write it."""
    layers, width, heads, kv_heads, head, neurons, vocabulary = 2, 32, 4, 2, 16, 32, 40
    rope = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
    tensors = {"model.embed_tokens": [vocabulary, width], "model.norm": [width]}
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for layer in range(layers):
        for theirs, own, shape in [
            ("input_layernorm", "attn_norm", [width]),
            ("self_attn.q_proj", "attn_q", [heads * head, width]),
            ("self_attn.k_proj", "attn_k", [kv_heads * head, width]),
            ("self_attn.v_proj", "attn_v", [kv_heads * head, width]),
            ("self_attn.o_proj", "attn_output", [width, heads * head]),
            ("post_attention_layernorm", "ffn_norm", [width]),
            ("mlp.gate_proj", "ffn_gate", [neurons, width]),
            ("mlp.up_proj", "ffn_up", [neurons, width]),
            ("mlp.down_proj", "ffn_down", [width, neurons]),
        ]:
            tensors[f"model.layers.{layer}.{theirs}"] = shape
            names[f"model.layers.{layer}.{theirs}"] = f"blk.{layer}.{own}"
    tensors = {name: rng.normal(size=shape).astype(np.float16) for name, shape in tensors.items()}

    save_file({f"{name}.weight": tensor for name, tensor in tensors.items()}, "small/model.safetensors")
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": neurons,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "rms_norm_eps": 2.0**-17,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "llama3", **rope},
        "max_position_embeddings": 1024,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    tokens = {f"t{i}": i for i in range(vocabulary)}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": tokens, "unk_token": "t0"}}
    for name, content in [("config", config), ("tokenizer", tokenizer)]:
        with open(f"small/{name}.json", "w") as file:
            json.dump(content, file, indent=1)

    writer = gguf.GGUFWriter("small/small.gguf", "llama")
    context, theta, epsilon = (config[key] for key in ["max_position_embeddings", "rope_theta", "rms_norm_eps"])
    hyperparameters(writer, layers, context, width, neurons, heads, kv_heads, head, theta, epsilon)
    writer.add_tokenizer_model("llama")
    pieces = ["<unk>", "<s>", "</s>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u2581a", "ca", "cab", *"0123456"]
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(i) for i in range(vocabulary)])
    writer.add_token_types([2, 3, 3] + [1] * (vocabulary - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}")
    writer.add_tensor("rope_freqs.weight", llama3_factors(head, theta, **rope))
    for name, tensor in tensors.items():
        if "q_proj" in name:
            tensor = permute(tensor, heads, heads)
        if "k_proj" in name:
            tensor = permute(tensor, heads, kv_heads)
        if tensor.ndim == 1:
            tensor = tensor.astype(np.float32)
        writer.add_tensor(f"{names[name]}.weight", tensor)
    finish(writer)


def permute(weights, n_head, n_head_kv):
    """As `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    if n_head_kv is not None and n_head != n_head_kv:
        n_head = n_head_kv
    return (
        weights.reshape(n_head, 2, weights.shape[0] // n_head // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def llama3_factors(dim, base, factor, low_freq_factor, high_freq_factor, original_max_position_embeddings):
    """As `LlamaModel.generate_extra_tensors` of llama.cpp's convert_hf_to_gguf.py."""
    old_context = original_max_position_embeddings
    freqs = 1.0 / (base ** (np.arange(0, dim, 2, dtype=np.float32) / dim))
    low_freq_wavelen = old_context / low_freq_factor
    high_freq_wavelen = old_context / high_freq_factor
    factors = []
    for freq in freqs:
        wavelen = 2 * np.pi / freq
        if wavelen < high_freq_wavelen:
            factors.append(1)
        elif wavelen > low_freq_wavelen:
            factors.append(factor)
        else:
            smooth = (old_context / wavelen - low_freq_factor) / (high_freq_factor - low_freq_factor)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    encodings()
    small()
    mixed()
