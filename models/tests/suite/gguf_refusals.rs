//! GGUF files that cannot be imported are refused by the name of the file and the key or tensor, and leave nothing behind.

use crate::gguf_file::*;
use crate::model::*;
use halo_models::{ImportOptions, WeightFormat};

const GATE: &str = "blk.1.ffn_gate.weight";

fn file() -> GgufFile {
    GgufFile::of(&Model::new())
}

/// The message with which importing fails.
fn refusal_of(bytes: &[u8]) -> String {
    let options = ImportOptions {
        embedding: Some(WeightFormat::F16),
        ..ImportOptions::default()
    };
    let (dir, result) = import_bytes(bytes, &options);
    refusal_in(dir.path(), result)
}

fn refusal(file: &GgufFile) -> String {
    refusal_of(&file.bytes())
}

#[test]
fn models_that_are_refused() {
    let array = |bytes: &[u8]| Meta::Raw(9, bytes.to_vec());
    let three_widths = [
        &5u32.to_le_bytes()[..],
        &3u64.to_le_bytes(),
        &[96, 0, 0, 0].repeat(3),
    ];
    for (key, value, expected) in [
        (
            "general.architecture",
            Meta::String("mamba"),
            "models with architecture `mamba`",
        ),
        (
            "general.architecture",
            Meta::U32(1),
            "key `general.architecture` is not a string in UTF-8",
        ),
        (
            "split.count",
            Meta::U32(3),
            "key `split.count` is 3: join the parts",
        ),
        ("llama.expert_count", Meta::U32(8), "models with 8 experts"),
        (
            "llama.rope.dimension_count",
            Meta::U32(8),
            "key `llama.rope.dimension_count` is 8, but a head's width is 16",
        ),
        (
            "llama.attention.value_length",
            Meta::U32(32),
            "is 32, but a head's width is 16",
        ),
        (
            "llama.attention.key_length",
            Meta::U32(0),
            "head_width is 0, but must be between 1 and 4096",
        ),
        (
            "llama.attention.head_count",
            Meta::U32(0),
            "heads is 0, but must be between 1 and 4096",
        ),
        (
            "llama.attention.head_count",
            Meta::U32(3),
            "kv_heads is 2, but must be a divisor of heads, which is 3",
        ),
        (
            "llama.block_count",
            Meta::Raw(10, u64::MAX.to_le_bytes().into()),
            "layers is 18446744073709551615",
        ),
        (
            "llama.block_count",
            Meta::Raw(5, (-1i32).to_le_bytes().into()),
            "key `llama.block_count` is not a whole number, not below 0",
        ),
        (
            "llama.block_count",
            Meta::F32(2.0),
            "key `llama.block_count` is not a whole number",
        ),
        (
            "llama.feed_forward_length",
            array(&three_widths.concat()),
            "key `llama.feed_forward_length` is not a whole number",
        ),
        (
            "llama.embedding_length",
            Meta::Raw(10, (1u64 << 60).to_le_bytes().into()),
            "width is 1152921504606846976",
        ),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Meta::F32(f32::NAN),
            "norm_epsilon is NaN",
        ),
        ("llama.rope.freq_base", Meta::F32(-1.0), "rope_theta is -1"),
        (
            "llama.rope.scaling.factor",
            Meta::F32(0.5),
            "rope_scaling.factor is 0.5",
        ),
        (
            "tokenizer.ggml.eos_token_id",
            Meta::U32(40),
            "eos is 40, but must be below the vocabulary, which is 40",
        ),
        (
            "tokenizer.ggml.add_bos_token",
            Meta::Raw(7, vec![2]),
            "key `tokenizer.ggml.add_bos_token` is not true or false",
        ),
    ] {
        let message = refusal(&file().key(key, value));
        assert!(
            message.starts_with("model.gguf: ") && message.contains(expected),
            "{key}: {message}"
        );
    }
    assert_eq!(
        refusal(&file().without_key("llama.context_length")),
        "model.gguf: key `llama.context_length` is missing"
    );
    let tokens = [
        &8u32.to_le_bytes()[..],
        &2u64.to_le_bytes(),
        &text("a"),
        &text("b"),
    ];
    assert_eq!(
        refusal(&file().key("tokenizer.ggml.tokens", array(&tokens.concat()))),
        "model.gguf: key `tokenizer.ggml.tokens` has 2 tokens, but `token_embd.weight` has 40 rows"
    );
}

#[test]
fn rotary_positions_that_are_refused() {
    let yarn = file().key("llama.rope.scaling.type", Meta::String("yarn"));
    assert!(refusal(&yarn).contains("models with RoPE scaling of type `yarn`"));
    let factors = |factors: &[f32]| {
        let pairs = factors.len() as u64;
        refusal(&file().with("rope_freqs.weight", &[pairs], factors))
    };
    assert_eq!(
        factors(&[1.0; 7]),
        "model.gguf: tensor `rope_freqs.weight` has shape [7], but must have [8]"
    );
    assert_eq!(
        factors(&[0.5; 8]),
        "model.gguf: rope_scaling.factor is 0.5, but must be a finite number, at least 1"
    );
}

#[test]
fn tensors_that_are_refused() {
    for (name, change, expected) in [
        (
            GATE,
            (|t| t.kind = 11) as fn(&mut Entry),
            "tensor `blk.1.ffn_gate.weight` is Q3_K, but must be F32, F16, ",
        ),
        (
            GATE,
            |t| t.dimensions.swap(0, 1),
            "tensor `blk.1.ffn_gate.weight` has shape [64, 96], but must have [96, 64]",
        ),
        (
            GATE,
            |t| t.name = "blk.1.gate".into(),
            "models with a tensor `blk.1.gate`",
        ),
        (
            GATE,
            |t| t.name = "blk.2.ffn_gate.weight".into(),
            "models with a tensor `blk.2.ffn_gate.weight`",
        ),
        (
            GATE,
            |t| t.name = "a\n".repeat(32),
            "models with a tensor `a\\na\\n",
        ),
        (
            "token_embd.weight",
            |t| t.name = "rope_freqs.weight".into(),
            "tensor `token_embd.weight` is missing",
        ),
        (
            GATE,
            |t| t.bytes[404..408].copy_from_slice(&f32::NAN.to_le_bytes()),
            "tensor `blk.1.ffn_gate.weight` holds a value that is not a finite number, at 101",
        ),
        (
            "blk.1.attn_q.weight",
            // Row 1 of the file is row 8 of the first head.
            |t| t.bytes[256..260].copy_from_slice(&f32::INFINITY.to_le_bytes()),
            "tensor `blk.1.attn_q.weight` holds a value that is not a finite number, at 64",
        ),
        (
            GATE,
            |t| {
                quantised(t, 2, 18);
                t.bytes[36..38].copy_from_slice(&[0, 0x7e]);
            },
            "tensor `blk.1.ffn_gate.weight` holds a value that is not a finite number, at 64",
        ),
        (
            "output_norm.weight",
            |t| quantised(t, 8, 34),
            "tensor `output_norm.weight` is Q8_0, but must be F32, F16, BF16",
        ),
        (
            "token_embd.weight",
            |t| t.bytes[..4].copy_from_slice(&1e6f32.to_le_bytes()),
            "tensor `token_embd.weight` holds 1000000, which f16 cannot represent",
        ),
    ] {
        let message = refusal(&file().tensor(name, change));
        assert!(
            message.starts_with("model.gguf: ") && message.contains(expected),
            "{message}"
        );
    }
    let mut without = file();
    without.tensors.retain(|tensor| tensor.name != GATE);
    assert_eq!(
        refusal(&without),
        "model.gguf: tensor `blk.1.ffn_gate.weight` is missing"
    );
    // Where blocks are copied their scales are checked too.
    let spoilt = file().tensor(GATE, |t| {
        quantised(t, 2, 18);
        t.bytes[36..38].copy_from_slice(&[0, 0x7c]);
    });
    let options = ImportOptions {
        weights: WeightFormat::Q4 { block: 32 },
        ..ImportOptions::default()
    };
    let (dir, result) = import_bytes(&spoilt.bytes(), &options);
    assert_eq!(
        refusal_in(dir.path(), result),
        "model.gguf: tensor `blk.1.ffn_gate.weight` holds a value that is not a finite number, at 64; the file is damaged or training diverged"
    );
}

#[test]
fn headers_that_are_refused() {
    let string = |length: u64| Meta::Raw(8, length.to_le_bytes().into());
    let array = |kind: u32, length: u64| {
        Meta::Raw(9, [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat())
    };
    let with_counts = |counts| GgufFile {
        counts: Some(counts),
        ..file()
    };
    let version = |version| GgufFile { version, ..file() };
    let gate = |change: fn(&mut Entry)| file().tensor(GATE, change);
    let cases = [
        (version(1), "GGUF version 1, but HALO reads 2 and 3"),
        (version(4), "GGUF version 4, but HALO reads 2 and 3"),
        (version(3u32.swap_bytes()), "a big-endian GGUF file"),
        (
            with_counts([u64::MAX, 1]),
            "the header has 18446744073709551615 tensors",
        ),
        (
            with_counts([1, 1 << 60]),
            "the header has 1152921504606846976 keys",
        ),
        (
            with_counts([65_537, 11]),
            "the header has 65537 tensors, more than the 65536 that are read",
        ),
        (
            file().key("k", string(1 << 60)),
            "key `k` is cut off by the end of the file",
        ),
        (
            file().key("k", string(u64::MAX)),
            "key `k` is cut off by the end of the file",
        ),
        (
            file().key("k", array(4, 1 << 62)),
            "key `k` is cut off by the end of the file",
        ),
        (
            file().key("k", array(12, u64::MAX / 8)),
            "key `k` is cut off by the end of the file",
        ),
        (
            file().key("k", array(8, 1 << 50)),
            "key `k` is cut off by the end of the file",
        ),
        (
            file().key("k", array(9, 1)),
            "key `k` is an array of arrays",
        ),
        (
            file().key("k", array(13, 1)),
            "key `k` has a type that GGUF does not know",
        ),
        (
            file().key("k", Meta::Raw(13, vec![])),
            "key `k` has a type that GGUF does not know",
        ),
        (
            file().key(&"k".repeat(65_537), Meta::U32(1)),
            "the header has a name that is too long",
        ),
        (
            file().key("general.alignment", Meta::U32(0)),
            "key `general.alignment` is not a power of two",
        ),
        (
            file().key("general.alignment", Meta::U32(24)),
            "key `general.alignment` is not a power of two",
        ),
        (
            gate(|t| t.dimensions.clear()),
            "tensor `blk.1.ffn_gate.weight` has 0 dimensions",
        ),
        (
            gate(|t| t.dimensions = vec![1; 5]),
            "tensor `blk.1.ffn_gate.weight` has 5 dimensions",
        ),
        (
            gate(|t| t.dimensions[1] = 0),
            "tensor `blk.1.ffn_gate.weight` has an impossible dimension",
        ),
        (
            gate(|t| t.dimensions = vec![1 << 40, 1 << 40]),
            "more elements than can be counted",
        ),
        (
            gate(|t| t.dimensions = vec![1 << 62, 1]),
            "more elements than can be counted",
        ),
        (
            gate(|t| t.dimensions = vec![1 << 50, 1]),
            "is beyond the end of the file",
        ),
        (
            gate(|t| (t.kind, t.dimensions) = (2, vec![33, 32])),
            "has rows that are not whole blocks",
        ),
        (
            gate(|t| t.offset = Some(u64::MAX - 31)),
            "is beyond the end of the file",
        ),
        (
            gate(|t| t.offset = Some(1 << 40)),
            "is beyond the end of the file",
        ),
        (
            gate(|t| t.offset = Some(33)),
            "is not at a multiple of 32 bytes",
        ),
        (gate(|t| t.offset = Some(32)), "overlaps tensor `"),
        (
            gate(|t| t.name = "output_norm.weight".into()),
            "tensor `output_norm.weight` is there twice",
        ),
        (
            gate(|t| t.name = "n".repeat(65)),
            "the header has a name that is too long",
        ),
    ];
    for (file, expected) in cases {
        let message = refusal(&file);
        assert!(
            message.starts_with("model.gguf: ") && message.contains(expected),
            "{expected}: {message}"
        );
    }
    let mut twice = file();
    twice.keys.push(("llama.block_count".into(), Meta::U32(2)));
    assert!(refusal(&twice).contains("key `llama.block_count` is there twice"));
    let mut invalid = file().bytes();
    let name = text("llama.block_count");
    let at = invalid
        .windows(name.len())
        .position(|window| window == name);
    invalid[at.unwrap() + 8] = 0xff;
    assert!(refusal_of(&invalid).contains("the header has a name that is not UTF-8"));
    for bytes in [&b""[..], b"GGU", b"GGML and more", b"{}"] {
        assert_eq!(refusal_of(bytes), "model.gguf: this is not a GGUF file");
    }
}
