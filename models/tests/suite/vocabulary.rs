//! Tokenizers made from the bare vocabulary of a GGUF file: the same as the `tokenizer.json` of the same model, and
//! refusals.

use std::fs;
use std::path::Path;

use halo_models::{Tokenizer, Vocabulary, VocabularyError};
use proptest::prelude::*;
use serde::Deserialize;

/// What a GGUF file has of a tokenizer, and what some texts become.
#[derive(Clone, Deserialize)]
struct Parts {
    model: String,
    pre: Option<String>,
    tokens: Vec<String>,
    #[serde(default)]
    scores: Vec<f32>,
    types: Vec<i32>,
    #[serde(default)]
    merges: Vec<String>,
    samples: Vec<Sample>,
}

#[derive(Clone, Deserialize)]
struct Sample {
    text: String,
    tokens: Vec<u32>,
}

const KINDS: [&str; 2] = ["sentence-piece", "byte-level"];

fn file(name: &str) -> Vec<u8> {
    fs::read(crate::model::data().join("tokenizers").join(name)).unwrap()
}

impl Parts {
    fn read(kind: &str) -> Self {
        serde_json::from_slice(&file(&format!("{kind}.gguf.json"))).unwrap()
    }

    fn vocabulary(&self) -> Vocabulary<'_> {
        Vocabulary {
            model: &self.model,
            pre: self.pre.as_deref(),
            tokens: self.tokens.iter().map(String::as_str).collect(),
            scores: self.scores.clone(),
            types: self.types.clone(),
            merges: self.merges.iter().map(String::as_str).collect(),
            ..Vocabulary::default()
        }
    }

    fn tokenizer(&self) -> Tokenizer {
        tokenizer(&self.vocabulary().tokenizer_json().unwrap())
    }
}

fn tokenizer(json: &[u8]) -> Tokenizer {
    Tokenizer::from_json(Path::new("tokenizer"), json, 1 << 20).unwrap()
}

/// The tokenizer as Hugging Face has it, and the one built from GGUF's parts.
fn pair(kind: &str) -> [Tokenizer; 2] {
    let published = file(&format!("{kind}.tokenizer.json"));
    [tokenizer(&published), Parts::read(kind).tokenizer()]
}

fn assert_same([published, built]: &[Tokenizer; 2], text: &str) {
    let tokens = published.encode(text).unwrap();
    assert_eq!(built.encode(text).unwrap(), tokens, "{text:?}");
    let back = published.decode(&tokens).unwrap();
    assert_eq!(built.decode(&tokens).unwrap(), back, "{text:?}");
}

#[test]
fn samples_become_what_those_who_trained_the_tokenizer_say() {
    for kind in KINDS {
        let parts = Parts::read(kind);
        let tokenizer = parts.tokenizer();
        assert!(parts.samples.len() >= 6);
        for Sample { text, tokens } in &parts.samples {
            assert_eq!(tokenizer.encode(text).unwrap(), *tokens, "{kind}: {text:?}");
            if !text.contains("</s>") {
                assert_eq!(tokenizer.decode(tokens).unwrap(), *text, "{kind}");
            }
        }
    }
}

#[test]
fn the_vocabulary_and_the_published_file_are_one_tokenizer() {
    for kind in KINDS {
        let pair = pair(kind);
        for byte in 0..=u8::MAX {
            assert_same(&pair, &char::from(byte).to_string());
        }
        for text in [
            "",
            " ",
            "  ",
            "\n",
            "<s>",
            "<s> <s>",
            "<s>a",
            "a</s>b",
            "<tool> <tool>",
            "<unk>x",
            "<0xE2>",
            "▁",
            "▁ ▁",
            "🦙",
            "e\u{301}",
            "東京 タワー",
            "\u{200d}",
            "\u{feff}a",
            "a\r\nb",
        ] {
            assert_same(&pair, text);
        }
        for name in ["valid-stories.txt", "valid-books.txt"] {
            let text = fs::read_to_string(crate::model::data().join(name)).unwrap();
            assert_same(&pair, &text);
            assert_eq!(
                pair[1].decode(&pair[1].encode(&text).unwrap()).unwrap(),
                text
            );
        }
        for token in 0..700 {
            assert_eq!(pair[0].piece(token), pair[1].piece(token), "{kind}");
            assert_eq!(pair[0].decode(&[token]).ok(), pair[1].decode(&[token]).ok());
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_the_same_for_both(text in "(\\PC|[ \\n\\t▁a-z]|<s>|</s>|<tool>|<0x0A>|  +){0,40}") {
        for kind in KINDS {
            assert_same(&pair(kind), &text);
        }
    }

    #[test]
    fn any_tokens_are_the_same_for_both(tokens in prop::collection::vec(0_u32..604, 0..30)) {
        for kind in KINDS {
            let [published, built] = pair(kind);
            prop_assert_eq!(published.decode(&tokens).unwrap(), built.decode(&tokens).unwrap());
        }
    }

    #[test]
    fn a_stream_gives_what_was_written(text in "(\\PC|[ \\n]){0,30}") {
        // That character is also what bytes that are no text decode to, and a stream cannot tell one from the other.
        prop_assume!(!text.contains(char::REPLACEMENT_CHARACTER));
        for kind in KINDS {
            let tokenizer = Parts::read(kind).tokenizer();
            let prompt = tokenizer.encode("Once").unwrap();
            let whole = tokenizer.encode(&format!("Once{text}")).unwrap();
            if whole.starts_with(&prompt) {
                let mut stream = tokenizer.decode_stream(&prompt);
                let mut out = String::new();
                for token in &whole[prompt.len()..] {
                    out += &stream.push(*token).unwrap();
                }
                prop_assert_eq!(out + &stream.finish().unwrap(), text.clone());
            }
        }
    }

    /// Whatever a file says, there is a tokenizer or an error.
    #[test]
    fn any_vocabulary_is_taken_or_refused(
        model in prop::sample::select(vec!["llama", "gpt2", "bert"]),
        pre in prop::option::of(prop::sample::select(vec!["default", "gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "x"])),
        tokens in prop::collection::vec("[ab▁ Ġ]{0,4}|<0x[0-9A-F]{2}>", 0..20),
        scores in prop::collection::vec(any::<f32>(), 0..20),
        types in prop::collection::vec(any::<i32>().prop_map(|kind| kind % 9), 0..20),
        merges in prop::collection::vec("[ab ]{0,4}", 0..6),
        special in prop::option::of(0_u32..25),
        text in "[ab \\PC]{0,12}",
    ) {
        let count = tokens.len();
        let vocabulary = Vocabulary {
            model,
            pre,
            tokens: tokens.iter().map(String::as_str).collect(),
            scores: if scores.len() > 10 { vec![1.0; count] } else { scores },
            types: if types.len() > 10 { vec![1; count] } else { types },
            merges: merges.iter().map(String::as_str).collect(),
            bos: special,
            unknown: special,
            ..Vocabulary::default()
        };
        if let Ok(json) = vocabulary.tokenizer_json() {
            let tokenizer = tokenizer(&json);
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert!(tokens.iter().all(|token| (*token as usize) < count));
            tokenizer.decode(&tokens).unwrap();
        }
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |kind: &str, change: &dyn Fn(&mut Vocabulary<'_>)| {
        let parts = Parts::read(kind);
        let mut vocabulary = parts.vocabulary();
        change(&mut vocabulary);
        vocabulary.tokenizer_json().unwrap_err()
    };
    let [spm, bytes] = KINDS;
    let long = "x".repeat(1025);
    let long = long.leak();
    for (kind, change, expected) in [
        (
            spm,
            &(|v: &mut Vocabulary<'_>| v.model = "bert") as &dyn Fn(&mut Vocabulary<'_>),
            "HALO cannot build a tokenizer of tokenizer.ggml.model `bert`; give the model's tokenizer.json with --tokenizer FILE",
        ),
        (
            bytes,
            &|v| v.pre = Some("poro-chat"),
            "HALO cannot build a tokenizer of tokenizer.ggml.pre `poro-chat`; give the model's tokenizer.json with --tokenizer FILE",
        ),
        (
            spm,
            &|v| v.tokens.clear(),
            "tokenizer.ggml.tokens is missing or empty",
        ),
        (
            spm,
            &|v| v.scores.clear(),
            "tokenizer.ggml.scores is missing or empty",
        ),
        (
            bytes,
            &|v| v.merges.clear(),
            "tokenizer.ggml.merges is missing or empty",
        ),
        (
            spm,
            &|v| v.scores.truncate(639),
            "tokenizer.ggml.scores has 639 entries for 640 tokens",
        ),
        (
            bytes,
            &|v| v.types.push(1),
            "tokenizer.ggml.token_type has 605 entries for 604 tokens",
        ),
        (
            spm,
            &|v| v.tokens[300] = v.tokens[299],
            "tokens 299 and 300 are both `▁g`",
        ),
        (
            spm,
            &|v| v.tokens[7] = long,
            "token 7 has 1025 bytes; at most 1024 are taken",
        ),
        (
            spm,
            &|v| v.scores[9] = f32::NAN,
            "the score of token 9 is not a number",
        ),
        (
            spm,
            &|v| v.bos = Some(640),
            "tokenizer.ggml.bos_token_id is 640, but there are 640 tokens",
        ),
        (
            spm,
            &|v| v.unknown = Some(u32::MAX),
            "tokenizer.ggml.unknown_token_id is 4294967295, but there are 640 tokens",
        ),
        (
            bytes,
            &|v| v.merges[3] = "Ġt nosuch",
            "merge 3, `Ġt nosuch`, does not name two tokens that together are a third",
        ),
        (
            bytes,
            &|v| v.merges[3] = "!!",
            "merge 3, `!!`, does not name two tokens that together are a third",
        ),
    ] {
        assert_eq!(refused(kind, change).to_string(), expected);
    }
    let error = refused(bytes, &|v| v.pre = Some("x"));
    assert!(matches!(error, VocabularyError::Unsupported { .. }));
}

#[test]
fn empty_tokens_have_names_that_no_text_becomes() {
    let mut parts = Parts::read("sentence-piece");
    parts.tokens[400].clear();
    let tokenizer = parts.tokenizer();
    assert_eq!(tokenizer.piece(400).unwrap(), "[EMPTY_400]");
    assert!(!tokenizer.encode("[EMPTY_400]").unwrap().contains(&400));
}

#[test]
fn what_comes_first_is_as_the_file_says_or_as_its_kind_is() {
    let first = |model, pre, add_bos| {
        Vocabulary {
            model,
            pre,
            add_bos,
            bos: Some(1),
            ..Vocabulary::default()
        }
        .first_token()
    };
    assert_eq!(first("llama", None, None), Some(1));
    assert_eq!(first("llama", None, Some(false)), None);
    assert_eq!(first("gpt2", Some("llama-bpe"), None), Some(1));
    assert_eq!(first("gpt2", Some("qwen2"), None), None);
    assert_eq!(first("gpt2", Some("qwen2"), Some(true)), Some(1));
}
