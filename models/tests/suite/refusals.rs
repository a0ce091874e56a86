//! What cannot be imported is refused by the name of the file and the tensor, and leaves nothing behind.

use std::fs;

use crate::model::*;
use halo_models::{ImportOptions, WeightFormat};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

const GATE: &str = "model.layers.1.mlp.gate_proj.weight";

#[test]
fn a_name_must_fit_into_paths_and_keys() {
    for name in ["", "a/b", "..", "a b", "llama*", "ümlaut"] {
        let options = ImportOptions {
            name: Some(name.into()),
            ..f32_options()
        };
        assert!(
            Model::new()
                .refusal(&options)
                .contains("is not a model name"),
            "{name}"
        );
    }
}

fn llama3(low: f64, high: f64, original: Value) -> Value {
    json!({
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    })
}

#[test]
fn configurations_that_are_refused() {
    let cases = [
        ("model_type", json!("gpt2"), "model_type `gpt2`"),
        ("model_type", json!(null), "`model_type` is missing"),
        ("hidden_act", json!("gelu"), "hidden_act `gelu`"),
        ("mlp_bias", json!(true), "models with mlp_bias true"),
        (
            "num_local_experts",
            json!(8),
            "models with num_local_experts 8",
        ),
        (
            "partial_rotary_factor",
            json!(0.5),
            "models with partial_rotary_factor 0.5",
        ),
        (
            "layer_types",
            json!(["linear_attention"]),
            "layer_types `linear_attention`",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "default", "mrope_section": [16, 24, 24]}),
            "models with mrope_section in rope_parameters",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.25}),
            "models with partial_rotary_factor in rope_parameters",
        ),
        (
            "rope_scaling",
            json!({"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}),
            "rope_scaling of type `longrope`",
        ),
        (
            "head_dim",
            json!(24),
            "head_width is 24, but must be a multiple of 16",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "already quantised",
        ),
        (
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2.0}),
            "rope_scaling of type `dynamic`",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "yarn"}),
            "rope_parameters of type `yarn`",
        ),
        (
            "rope_scaling",
            json!({"type": "linear"}),
            "`factor` is missing in rope_scaling",
        ),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 0.0}),
            "rope_scaling.factor is 0, but must be a finite number, at least 1",
        ),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": "two"}),
            "invalid type: string",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
            "`original_max_position_embeddings` is missing in rope_parameters",
        ),
        (
            "rope_scaling",
            llama3(-1.0, 4.0, json!(8192)),
            "rope_scaling.low_freq_factor is -1, but must be a finite number above 0",
        ),
        (
            "rope_scaling",
            llama3(4.0, 4.0, json!(8192)),
            "rope_scaling.high_freq_factor is 4, but must be a finite number above low_freq_factor, which is 4",
        ),
        (
            "rope_scaling",
            llama3(1.0, 4.0, json!(u64::MAX)),
            "rope_scaling.original_context is 18446744073709551615, but must be between 1 and 16777216",
        ),
        (
            "rope_scaling",
            llama3(1.0, 4.0, json!(-1)),
            "invalid value: integer `-1`",
        ),
        (
            "num_attention_heads",
            json!(0),
            "hidden_size 64 is not a multiple of num_attention_heads 0",
        ),
        (
            "num_attention_heads",
            json!(5),
            "hidden_size 64 is not a multiple of num_attention_heads 5",
        ),
        (
            "num_key_value_heads",
            json!(0),
            "kv_heads is 0, but must be between 1 and 4096",
        ),
        (
            "num_key_value_heads",
            json!(3),
            "kv_heads is 3, but must be a divisor of heads, which is 4",
        ),
        (
            "hidden_size",
            json!(1u64 << 60),
            "width is 1152921504606846976, but must be between 1 and 65536",
        ),
        (
            "vocab_size",
            json!(u64::MAX),
            "vocabulary is 18446744073709551615",
        ),
        ("num_hidden_layers", json!(u64::MAX), "layers is"),
        ("head_dim", json!(1u64 << 62), "head_width is"),
        (
            "intermediate_size",
            json!(-1),
            "invalid value: integer `-1`",
        ),
        ("intermediate_size", json!("many"), "invalid type: string"),
        (
            "intermediate_size",
            json!(1e30),
            "invalid type: floating point",
        ),
        ("rms_norm_eps", json!(-1.0), "norm_epsilon is -1"),
        ("rope_theta", json!(0.0), "rope_theta is 0"),
        (
            "eos_token_id",
            json!(40),
            "eos is 40, but must be below the vocabulary, which is 40",
        ),
        ("bos_token_id", json!(40), "bos is 40"),
    ];
    for (key, value, expected) in cases {
        let message = Model::new().config(key, value).refusal(&f32_options());
        assert!(
            message.starts_with("config.json: ") && message.contains(expected),
            "{key}: {message}"
        );
    }
    let message = Model::new()
        .without_config("hidden_size")
        .refusal(&f32_options());
    assert!(
        message.starts_with("config.json: missing field `hidden_size`"),
        "{message}"
    );
    let contradiction = Model::new()
        .config("rope_scaling", json!({"type": "linear", "factor": 2.0}))
        .config(
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 4.0}),
        );
    assert_eq!(
        contradiction.refusal(&f32_options()),
        "config.json: rope_scaling and rope_parameters contradict each other"
    );
    let qwen = |kind: &str| Model::new().config("model_type", json!(kind));
    let message = qwen("qwen3").refusal(&f32_options());
    assert_eq!(message, "config.json: `head_dim` is missing");
    let message = qwen("qwen2")
        .without_config("num_key_value_heads")
        .refusal(&f32_options());
    assert_eq!(message, "config.json: `num_key_value_heads` is missing");
    let window = qwen("qwen2")
        .config("use_sliding_window", json!(true))
        .config("sliding_window", json!(32));
    for (key, value) in [
        ("max_window_layers", json!(1)),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
    ] {
        assert_eq!(
            window.clone().config(key, value).refusal(&f32_options()),
            format!(
                "config.json: HALO does not run models with a sliding window in only 1 of 2 layers ({key}); \
                 it runs the LLaMA family: model_type llama, mistral, qwen2 or qwen3"
            )
        );
    }
}

#[test]
fn tensors_that_are_refused() {
    let refusal = |change: fn(&mut Tensor)| {
        Model::new()
            .tensor(GATE, change)
            .refusal(&ImportOptions::default())
    };
    let prefix = format!("model.safetensors: tensor `{GATE}`");
    let expect = |message: String, rest: &str| {
        assert!(
            message.starts_with(&prefix) && message.contains(rest),
            "{message}"
        );
    };
    expect(
        refusal(|tensor| tensor.2[400..404].copy_from_slice(&f32::NAN.to_le_bytes())),
        "holds a value that is not a finite number, at 100",
    );
    expect(
        refusal(|tensor| tensor.2[..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes())),
        "holds a value that is not a finite number, at 0",
    );
    expect(
        refusal(|tensor| tensor.1.reverse()),
        "has shape [64, 96], but must have [96, 64]",
    );
    expect(
        refusal(|tensor| tensor.0 = Dtype::I32),
        "is I32, but must be F32 or F16 or BF16",
    );
    let mut model = Model::new();
    model.tensors.remove(GATE);
    expect(model.refusal(&ImportOptions::default()), "is missing");
    let left_out = |tensor: &str| {
        let mut model = Model::new();
        let bias = (Dtype::F32, vec![WIDTH], f32_bytes(&[0.0; WIDTH]));
        model.tensors.insert(tensor.into(), bias);
        model.refusal(&f32_options())
    };
    for tensor in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.input_layernorm.weight",
        "model.layers.1.mlp.router",
    ] {
        let expected =
            format!("models with a tensor `{tensor}`, which config.json does not tell of");
        assert!(left_out(tensor).contains(&expected), "{}", left_out(tensor));
    }
    let untied = Model::new().config("tie_word_embeddings", json!(false));
    assert_eq!(
        untied.refusal(&f32_options()),
        "model.safetensors: tensor `lm_head.weight` is missing"
    );
    let large = |tensor: &mut Tensor| tensor.2[..4].copy_from_slice(&1e6f32.to_le_bytes());
    let large = Model::new().tensor("model.embed_tokens.weight", large);
    let f16 = ImportOptions {
        weights: WeightFormat::F16,
        ..ImportOptions::default()
    };
    assert_eq!(
        large.refusal(&f16),
        "model.safetensors: tensor `model.embed_tokens.weight` holds 1000000, which f16 cannot represent; \
         import it with f32"
    );
}

#[test]
fn widths_without_blocks_are_refused() {
    let options = ImportOptions {
        group_size: Some(24),
        ..ImportOptions::default()
    };
    assert_eq!(
        Model::new().refusal(&options),
        "`feed_forward.down` cannot be stored as q4:256: 24 columns are not a multiple of 16; choose f16 or f32"
    );
    let options = ImportOptions {
        weights: WeightFormat::Q4 { block: 24 },
        ..ImportOptions::default()
    };
    assert!(
        Model::new()
            .refusal(&options)
            .contains("not a power of two")
    );
}

#[test]
fn damaged_weight_files_are_refused() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    Model::new().write(&source);
    let whole = fs::read(source.join("model.safetensors")).unwrap();
    let refusal = |bytes: &[u8]| {
        fs::write(source.join("model.safetensors"), bytes).unwrap();
        refusal_in(dir.path(), import_in(dir.path(), &f32_options()))
    };
    let oversized = [&(1u64 << 60).to_le_bytes(), &whole[8..]].concat();
    let beyond = [&(whole.len() as u64).to_le_bytes(), &whole[8..]].concat();
    for bytes in [
        &whole[..whole.len() - 1],
        &whole[..100],
        &whole[..7],
        b"",
        &oversized,
        &beyond,
    ] {
        let message = refusal(bytes);
        assert!(
            message.starts_with("model.safetensors is not a whole safetensors file: "),
            "{message}"
        );
    }
}

#[test]
fn parts_lie_in_the_folder() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    Model::new().write_parts(&source);
    let path = source.join("model.safetensors.index.json");
    let index = fs::read_to_string(&path).unwrap();
    let part = "model-00002-of-00002.safetensors";
    let refusal = || refusal_in(dir.path(), import_in(dir.path(), &f32_options()));
    for name in ["../elsewhere.safetensors", "/etc/passwd", "", ".."] {
        fs::write(&path, index.replace(part, name)).unwrap();
        assert_eq!(
            refusal(),
            format!("model.safetensors.index.json: `{name}` is not the name of a part")
        );
    }
    fs::write(&path, index.replace(part, "absent.safetensors")).unwrap();
    assert!(refusal().starts_with("absent.safetensors is missing"));
    fs::write(&path, &index).unwrap();
    fs::write(source.join(part), Model::new().weights()).unwrap();
    assert!(
        import_in(dir.path(), &f32_options()).is_ok(),
        "a part may hold more than the index says"
    );
}

#[test]
fn a_folder_without_its_files_is_refused() {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let dir = TempDir::new().unwrap();
        Model::new().write(&dir.path().join("source"));
        fs::remove_file(dir.path().join("source").join(name)).unwrap();
        let message = refusal_in(dir.path(), import_in(dir.path(), &f32_options()));
        assert!(
            message.starts_with(&format!("{name} is missing; a model folder has ")),
            "{message}"
        );
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let mut model = Model::new();
    model.tokenizer["model"]["vocab"]["t40"] = json!(40);
    assert_eq!(
        model.refusal(&f32_options()),
        "tokenizer.json: token 40 is beyond the model's vocabulary of 40; this tokenizer belongs to another model"
    );
    model.tokenizer = json!({"version": "1.0"});
    assert!(
        model
            .refusal(&f32_options())
            .starts_with("tokenizer.json: ")
    );
}
