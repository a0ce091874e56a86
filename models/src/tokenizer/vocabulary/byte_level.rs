//! Byte-level BPE: a text is cut into words by a regular expression, and the bytes of a word are merged in the order of
//! a list.

use serde_json::{Value, json};

use super::{Bpe, TokenizerJson, Tokens, Vocabulary, VocabularyError};

/// How a text is cut into words: what GGUF names by one word, `tokenizer.ggml.pre`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// What llama.cpp does when a file does not say.
    Default,
    Gpt2,
    Llama3,
    Qwen2,
    SmolLm,
    Tekken,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    pub(super) fn find(name: Option<&str>) -> Result<Self, VocabularyError> {
        Ok(match name.unwrap_or("default") {
            "default" => Self::Default,
            "gpt-2" => Self::Gpt2,
            "llama-bpe" | "llama-v3" | "llama3" | "falcon3" => Self::Llama3,
            "qwen2" | "deepseek-r1-qwen" => Self::Qwen2,
            "smollm" => Self::SmolLm,
            "tekken" => Self::Tekken,
            other => {
                let what = format!("tokenizer.ggml.pre `{}`", other.escape_debug());
                return Err(VocabularyError::Unsupported { what });
            }
        })
    }

    /// Whether models of this kind have the beginning-of-text token before a text unless something else is said.
    pub(super) fn begins_with_bos(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Whether a word that is a token is taken as it is, even if merges would not lead there.
    fn ignores_merges(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Regular expressions, each applied to the pieces that the one before it left. What is between matches is a piece
    /// as well.
    fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
            Self::Gpt2 => &[GPT2],
            Self::Llama3 => &[
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
            Self::Qwen2 => &[
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
            Self::SmolLm => &[r"\p{N}", GPT2],
            Self::Tekken => &[
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
        }
    }

    fn normalizer(self) -> Value {
        match self {
            Self::Qwen2 => json!({ "type": "NFC" }),
            _ => Value::Null,
        }
    }
}

impl Vocabulary<'_> {
    pub(super) fn byte_level<'t>(
        &'t self,
        tokens: &'t Tokens<'_>,
    ) -> Result<TokenizerJson<'t>, VocabularyError> {
        let pre = PreTokenizer::find(self.pre)?;
        let byte_level = json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": false,
            "use_regex": false,
        });
        let split = |pattern: &&str| {
            json!({
                "type": "Split",
                "pattern": { "Regex": pattern },
                "behavior": "Isolated",
                "invert": false,
            })
        };
        let mut pretokenizers = pre.patterns().iter().map(split).collect::<Vec<_>>();
        pretokenizers.push(byte_level.clone());
        Ok(TokenizerJson {
            version: "1.0",
            added_tokens: self.added_tokens(tokens),
            normalizer: pre.normalizer(),
            pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": pretokenizers }),
            post_processor: (),
            decoder: byte_level,
            model: Bpe {
                r#type: "BPE",
                unk_token: None,
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: pre.ignores_merges(),
                vocab: tokens,
                merges: self.listed_merges(tokens)?,
            },
        })
    }

    fn listed_merges<'t>(
        &'t self,
        tokens: &Tokens<'_>,
    ) -> Result<Vec<(&'t str, &'t str)>, VocabularyError> {
        if self.merges.is_empty() {
            return Err(VocabularyError::Empty { key: "merges" });
        }
        let parts = |merge: &'t str| {
            let (left, right) = merge.split_once(' ')?;
            let known = |token: &str| tokens.id(token).is_some();
            (known(left) && known(right) && known(&[left, right].concat())).then_some((left, right))
        };
        let merges = self.merges.iter().enumerate().map(|(index, merge)| {
            parts(merge).ok_or_else(|| VocabularyError::Merge {
                index,
                merge: merge.chars().take(100).collect(),
            })
        });
        merges.collect()
    }
}
