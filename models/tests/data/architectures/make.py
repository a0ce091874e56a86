"""Makes the model folders beside it: one for each architecture, small, of random weights, in Hugging Face's layout, with the logits
of a text of random tokens by a plain float64 NumPy forward pass. It shares no code with HALO.

    pip install numpy safetensors
    python make.py
"""
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
TOKENS = 40
COMMON = {"hidden_act": "silu", "hidden_size": 64, "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "rope_theta": 10000.0}
MODELS = {
    # A window much shorter than the text; one KV head; heads wider than hidden_size / heads; neurons that fill no group.
    "mistral": {"model_type": "mistral", "sliding_window": 7, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 16,
                "intermediate_size": 76, "num_hidden_layers": 2, "vocab_size": 131, "tie_word_embeddings": False},
    # Biases of queries, keys and values; a window that is described but not used.
    "qwen2": {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 100, "num_hidden_layers": 2, "vocab_size": 117,
              "tie_word_embeddings": True, "rope_theta": 1e6},
    # Norms of every head's query and key; as many KV heads as heads.
    "qwen3": {"model_type": "qwen3", "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 32, "attention_bias": False,
              "intermediate_size": 70, "num_hidden_layers": 2, "vocab_size": 101, "tie_word_embeddings": True, "rope_theta": 1e6},
    # Rotary positions scaled as in Llama 3.1, over a text longer than the original context; biases all around attention.
    "llama": {"model_type": "llama", "attention_bias": True, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
              "intermediate_size": 90, "num_hidden_layers": 2, "vocab_size": 67, "tie_word_embeddings": False,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 16}},
}


def make(cfg, rng):
    """Weights of about the size that keeps activations near 1 and attention far from even."""
    D, F, V = cfg["hidden_size"], cfg["intermediate_size"], cfg["vocab_size"]
    hd = cfg.get("head_dim", D // cfg["num_attention_heads"])
    Q, K = cfg["num_attention_heads"] * hd, cfg["num_key_value_heads"] * hd
    matrix = lambda rows, cols, gain=1.0: rng.normal(size=(rows, cols)) * gain / np.sqrt(cols)
    norm = lambda n: 1 + 0.3 * rng.normal(size=n)
    w = {"model.embed_tokens.weight": rng.normal(size=(V, D)), "model.norm.weight": norm(D)}
    if not cfg["tie_word_embeddings"]:
        w["lm_head.weight"] = matrix(V, D, 3.0)
    for i in range(cfg["num_hidden_layers"]):
        p = f"model.layers.{i}."
        w[p + "input_layernorm.weight"], w[p + "post_attention_layernorm.weight"] = norm(D), norm(D)
        for name, rows, cols in (("q", Q, D), ("k", K, D), ("v", K, D), ("o", D, Q)):
            w[p + f"self_attn.{name}_proj.weight"] = matrix(rows, cols, 1.5)
            if cfg.get("attention_bias") or (cfg["model_type"] == "qwen2" and name != "o"):
                w[p + f"self_attn.{name}_proj.bias"] = rng.normal(size=rows)
        if cfg["model_type"] == "qwen3":
            w[p + "self_attn.q_norm.weight"], w[p + "self_attn.k_norm.weight"] = norm(hd), norm(hd)
        for name, rows, cols in (("gate", F, D), ("up", F, D), ("down", D, F)):
            w[p + f"mlp.{name}_proj.weight"] = matrix(rows, cols, 1.5)
    return {name: values.astype(np.float16) for name, values in w.items()}


def frequencies(cfg, hd):
    inv = cfg["rope_theta"] ** (-np.arange(0, hd, 2) / hd)
    s = cfg.get("rope_scaling")
    if not s:
        return inv
    turns = s["original_max_position_embeddings"] * inv / (2 * np.pi)
    smooth = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
    between = (1 - smooth) * inv / s["factor"] + smooth * inv
    return np.where(turns < s["low_freq_factor"], inv / s["factor"], np.where(turns > s["high_freq_factor"], inv, between))


def forward(cfg, weights, ids):
    w = {name: values.astype(np.float64) for name, values in weights.items()}
    n, D, H, KV = len(ids), cfg["hidden_size"], cfg["num_attention_heads"], cfg["num_key_value_heads"]
    hd = cfg.get("head_dim", D // H)
    angles = np.outer(np.arange(n), frequencies(cfg, hd))
    cos, sin = (f(np.concatenate([angles, angles], -1))[:, None] for f in (np.cos, np.sin))
    rms = lambda x, gain: x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg["rms_norm_eps"]) * gain
    rope = lambda x: x * cos + np.concatenate([-x[..., hd // 2:], x[..., :hd // 2]], -1) * sin
    behind = np.arange(n)[:, None] - np.arange(n)
    hidden = behind < 0
    if cfg["model_type"] == "mistral" and cfg["sliding_window"]:
        hidden |= behind >= cfg["sliding_window"]
    h = w["model.embed_tokens.weight"][ids]
    for i in range(cfg["num_hidden_layers"]):
        p = f"model.layers.{i}."

        def linear(x, name):
            return x @ w[f"{p}{name}.weight"].T + w.get(f"{p}{name}.bias", 0)

        def heads(name, count):
            x = linear(y, f"self_attn.{name}_proj").reshape(n, count, hd)
            gain = w.get(f"{p}self_attn.{name}_norm.weight")
            return x if gain is None else rms(x, gain)

        y = rms(h, w[p + "input_layernorm.weight"])
        q, k, v = rope(heads("q", H)), rope(heads("k", KV)), heads("v", KV)
        k, v = np.repeat(k, H // KV, 1), np.repeat(v, H // KV, 1)
        s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(hd) + np.where(hidden, -np.inf, 0)
        s = np.exp(s - s.max(-1, keepdims=True))
        s /= s.sum(-1, keepdims=True)
        h = h + linear(np.einsum("hqk,khd->qhd", s, v).reshape(n, H * hd), "self_attn.o_proj")
        y = rms(h, w[p + "post_attention_layernorm.weight"])
        gate = linear(y, "mlp.gate_proj")
        h = h + linear(gate / (1 + np.exp(-gate)) * linear(y, "mlp.up_proj"), "mlp.down_proj")
    return rms(h, w["model.norm.weight"]) @ w["model.embed_tokens.weight" if cfg["tie_word_embeddings"] else "lm_head.weight"].T


for seed, (name, keys) in enumerate(MODELS.items()):
    cfg = {**COMMON, **keys}
    rng = np.random.default_rng(seed)
    weights = make(cfg, rng)
    ids = rng.integers(0, cfg["vocab_size"], TOKENS)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(cfg, indent=2) + "\n")
    words = {f"t{i}": i for i in range(cfg["vocab_size"])}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}) + "\n")
    save_file(weights, folder / "model.safetensors")
    logits = forward(cfg, weights, ids)
    save_file({"tokens": ids.astype(np.int32), "logits": logits.astype(np.float32)}, folder / "golden.safetensors")
    print(name, f"logits {logits.std():.2f} root mean square")
