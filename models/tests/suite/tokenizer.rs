//! The default model's tokenizer against golden values, and decoding token by token.

use std::fs;

use halo_models::{Package, Tokenizer};
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;

fn tokenizer() -> Tokenizer {
    Package::open(&crate::model::tiny())
        .unwrap()
        .tokenizer()
        .unwrap()
}

/// What a stream gives out after each token, and at the end.
fn streamed(tokenizer: &Tokenizer, prompt: &[u32], tokens: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.decode_stream(prompt);
    let mut pieces = tokens
        .iter()
        .map(|token| stream.push(*token).unwrap())
        .collect::<Vec<_>>();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn golden_prompts_and_continuations() {
    let golden: Value =
        serde_json::from_slice(&fs::read(crate::model::data().join("golden.json")).unwrap())
            .unwrap();
    let bytes = fs::read(crate::model::data().join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = |name: String| {
        let data = tensors.tensor(&name).unwrap().data();
        data.as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect::<Vec<_>>()
    };
    let tokenizer = tokenizer();
    let prompts = golden["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 7);
    for (i, prompt) in prompts.iter().enumerate() {
        let (text, greedy_text) = (
            prompt["text"].as_str().unwrap(),
            prompt["greedy_text"].as_str().unwrap(),
        );
        let (with_bos, greedy) = (
            tokens(format!("p{i}.tokens")),
            tokens(format!("p{i}.greedy")),
        );
        assert_eq!(with_bos[0], 0);
        assert_eq!(tokenizer.encode(text).unwrap(), with_bos[1..]);
        assert_eq!(tokenizer.decode(&with_bos).unwrap(), text);
        assert_eq!(tokenizer.decode(&greedy).unwrap(), greedy_text);
        assert_eq!(
            streamed(&tokenizer, &with_bos, &greedy).concat(),
            greedy_text
        );
    }
}

#[test]
fn characters_are_given_out_whole() {
    let tokenizer = tokenizer();
    let text = "a🦙b 東京 naïve";
    let tokens = tokenizer.encode(text).unwrap();
    let llama = tokenizer.encode("🦙").unwrap();
    assert!(
        llama.len() > 1,
        "the vocabulary has the character as one token; choose another"
    );
    let pieces = streamed(&tokenizer, &[0], &tokens);
    assert_eq!(pieces.concat(), text);
    assert!(
        pieces.iter().all(|piece| !piece.contains('\u{fffd}')),
        "{pieces:?}"
    );
    assert!(pieces.iter().any(|piece| piece.is_empty()));
    assert!(pieces.contains(&"🦙".to_owned()));
    // Cut short, what is there of the character comes at the end.
    assert_eq!(
        streamed(&tokenizer, &[0], &llama[..llama.len() - 1]),
        [
            vec![String::new(); llama.len() - 1],
            vec!["\u{fffd}".into()]
        ]
        .concat()
    );
}

#[test]
fn bytes_that_are_no_text_do_not_hold_text_back_for_ever() {
    let tokenizer = tokenizer();
    let llama = tokenizer.encode("🦙").unwrap();
    let continuation = *llama.last().unwrap();
    let pieces = streamed(&tokenizer, &[], &[continuation; 100]);
    assert!(pieces[..100].concat().chars().count() >= 90);
    assert_eq!(pieces.concat(), "\u{fffd}".repeat(100));
}

#[test]
fn special_tokens_have_no_text() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.encode("<s>").unwrap(), [0]);
    assert_eq!(tokenizer.decode(&[0, 1]).unwrap(), "");
    assert_eq!(tokenizer.piece(1).as_deref(), Some("</s>"));
    assert_eq!(tokenizer.piece(2048), None);
}

/// LLaMA 2's kind of tokenizer: spaces written as `▁`, the first one stripped, and bytes as tokens of their own.
fn sentencepiece() -> (tempfile::TempDir, Tokenizer) {
    let mut vocabulary = serde_json::Map::new();
    for (i, piece) in ["<unk>", "▁Hello", "▁world", "!", "▁"]
        .into_iter()
        .enumerate()
    {
        vocabulary.insert(piece.into(), i.into());
    }
    for byte in 0..=255 {
        vocabulary.insert(format!("<0x{byte:02X}>"), (vocabulary.len()).into());
    }
    let mut model = crate::model::Model::new();
    model.tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": true, "unk_token": "<unk>"},
    });
    let vocabulary = 5 + 256;
    model.config["vocab_size"] = vocabulary.into();
    let embedding = model.tensors.get_mut("model.embed_tokens.weight").unwrap();
    embedding.1[0] = vocabulary;
    embedding.2 = vec![0; vocabulary * crate::model::WIDTH * 4];
    let (dir, package) = model.import(&crate::model::f32_options());
    (dir, package.unwrap().tokenizer().unwrap())
}

#[test]
fn spaces_and_bytes_of_a_sentencepiece_tokenizer() {
    let (_dir, tokenizer) = sentencepiece();
    let byte = |byte: u8| 5 + u32::from(byte);
    // The space before a word shows when there is something before it.
    assert_eq!(streamed(&tokenizer, &[], &[1, 2]).concat(), "Hello world");
    assert_eq!(streamed(&tokenizer, &[1], &[2, 3]).concat(), " world!");
    let llama = "é🦙".bytes().map(byte).collect::<Vec<_>>();
    assert_eq!(
        streamed(&tokenizer, &[1], &llama),
        ["", "é", "", "", "", "🦙", ""]
    );
    // A stray byte spoils neither what was given out before nor what follows.
    let stray = [byte(0xc3), byte(0xa9), byte(0xe2), 2, 3];
    assert_eq!(
        streamed(&tokenizer, &[1], &stray).concat(),
        "é\u{fffd} world!"
    );
}

proptest! {
    #[test]
    fn streaming_gives_what_decoding_gives(tokens in prop::collection::vec(0u32..2048, 0..64)) {
        let tokenizer = tokenizer();
        let pieces = streamed(&tokenizer, &[], &tokens);
        prop_assert_eq!(pieces.concat(), tokenizer.decode(&tokens).unwrap());
    }

    #[test]
    fn any_text_survives(text in any::<String>()) {
        let tokenizer = tokenizer();
        let tokens = tokenizer.encode(&text).unwrap();
        if !text.contains("<s>") && !text.contains("</s>") {
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), text.clone());
            let pieces = streamed(&tokenizer, &[], &tokens);
            prop_assert_eq!(pieces.concat(), text);
        }
    }

    #[test]
    fn any_change_to_a_tokenizer(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"0159.-eBu\"{}[],:\\".to_vec())), 1..4),
    ) {
        let (dir, _) = sentencepiece();
        let package = dir.path().join("package");
        let mut bytes = fs::read(package.join("tokenizer.json")).unwrap();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(package.join("tokenizer.json"), bytes).unwrap();
        if let Ok(tokenizer) = Package::open(&package).unwrap().tokenizer() {
            let tokens = tokenizer.encode("Hello world! 🦙").unwrap_or_default();
            let _ = tokenizer.decode(&tokens);
            // The library can make nothing of some tokenizers, and says so only when it decodes.
            let mut stream = tokenizer.decode_stream(&[]);
            let pieces: Result<Vec<_>, _> = tokens.iter().map(|t| stream.push(*t)).collect();
            let _ = pieces.and_then(|_| stream.finish());
        }
    }
}
