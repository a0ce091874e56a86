"""Writes a GGUF model with random weights, every matrix in Q4_0: random_gguf.py MANIFEST GGUF.

MANIFEST is the manifest.json of a HALO package, whose shape it takes.
"""

import json
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize

manifest, path = sys.argv[1:]
with open(manifest) as file:
    shape = json.load(file)["shape"]
width, vocabulary, neurons = shape["width"], shape["vocabulary"], shape["feed_forward"]
queries, keys = (shape[heads] * shape["head_width"] for heads in ("heads", "kv_heads"))

writer = GGUFWriter(path, "llama")
writer.add_block_count(shape["layers"])
writer.add_context_length(shape["context"])
writer.add_embedding_length(width)
writer.add_feed_forward_length(neurons)
writer.add_head_count(shape["heads"])
writer.add_head_count_kv(shape["kv_heads"])
writer.add_layer_norm_rms_eps(shape["norm_epsilon"])
writer.add_rope_dimension_count(shape["head_width"])
writer.add_rope_freq_base(shape["rope_theta"])
writer.add_vocab_size(vocabulary)
writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)

# llama.cpp asks for a vocabulary, though measuring needs none.
special = [(b"<unk>", TokenType.UNKNOWN), (b"<s>", TokenType.CONTROL), (b"</s>", TokenType.CONTROL)]
tokens = special + [(b"<0x%02X>" % byte, TokenType.BYTE) for byte in range(256)]
tokens += [(b"t%d" % token, TokenType.NORMAL) for token in range(len(tokens), vocabulary)]
writer.add_tokenizer_model("llama")
writer.add_token_list([token for token, _ in tokens])
writer.add_token_types([kind for _, kind in tokens])
writer.add_token_scores([-float(token) for token in range(vocabulary)])
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.add_unk_token_id(0)

random = np.random.default_rng(0)


def matrix(name, rows, columns):
    values = random.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)
    q4_0 = GGMLQuantizationType.Q4_0
    writer.add_tensor(f"{name}.weight", quantize(values, q4_0), raw_dtype=q4_0)


def norm(name):
    writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))


matrix("token_embd", vocabulary, width)
norm("output_norm")
if not shape["tied_head"]:
    matrix("output", vocabulary, width)
for layer in (f"blk.{index}" for index in range(shape["layers"])):
    norm(f"{layer}.attn_norm")
    matrix(f"{layer}.attn_q", queries, width)
    matrix(f"{layer}.attn_k", keys, width)
    matrix(f"{layer}.attn_v", keys, width)
    matrix(f"{layer}.attn_output", width, queries)
    norm(f"{layer}.ffn_norm")
    matrix(f"{layer}.ffn_gate", neurons, width)
    matrix(f"{layer}.ffn_up", neurons, width)
    matrix(f"{layer}.ffn_down", width, neurons)

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
