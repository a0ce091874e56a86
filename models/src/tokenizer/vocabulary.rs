//! A tokenizer made from the bare vocabulary of a GGUF file.

mod byte_level;
mod sentence_piece;

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Serialize, Serializer};
use serde_json::Value;

use byte_level::PreTokenizer;

/// A vocabulary as a GGUF file describes it under `tokenizer.ggml.`, key by key. Nothing of it has been checked.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary<'a> {
    /// `model`: `llama` (SentencePiece's BPE, from scores) or `gpt2` (byte-level BPE, from merges).
    pub model: &'a str,
    /// `pre`: how byte-level BPE cuts a text into words.
    pub pre: Option<&'a str>,
    /// `tokens`, by their ids.
    pub tokens: Vec<&'a str>,
    /// `scores`, one for each token; only SentencePiece needs them.
    pub scores: Vec<f32>,
    /// `token_type`, one for each token; if there are none, all are normal.
    pub types: Vec<i32>,
    /// `merges`: two tokens with a space between them, what is merged first coming first; only byte-level BPE needs them.
    pub merges: Vec<&'a str>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// Why a vocabulary makes no tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// A kind of tokenizer that is not built from a vocabulary here.
    #[error(
        "HALO cannot build a tokenizer of {what}; give the model's tokenizer.json with --tokenizer FILE"
    )]
    Unsupported {
        /// The key and its value.
        what: String,
    },
    /// A list that this kind of tokenizer needs.
    #[error("tokenizer.ggml.{key} is missing or empty")]
    Empty {
        /// The list.
        key: &'static str,
    },
    /// A list that is not as long as the list of tokens.
    #[error("tokenizer.ggml.{key} has {found} entries for {tokens} tokens")]
    Length {
        /// The list.
        key: &'static str,
        /// Its length.
        found: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// A token that is longer than any tokenizer makes them.
    #[error(
        "token {id} has {bytes} bytes; at most {} are taken",
        Vocabulary::MAX_TOKEN_BYTES
    )]
    Long {
        /// Its id.
        id: usize,
        /// Its length.
        bytes: usize,
    },
    /// Two tokens that are the same.
    #[error("tokens {first} and {second} are both `{}`", token.escape_debug())]
    Duplicate {
        /// The lower id.
        first: u32,
        /// The higher id.
        second: usize,
        /// What they are.
        token: String,
    },
    /// A score that is not a number.
    #[error("the score of token {id} is not a number")]
    Score {
        /// The token's id.
        id: usize,
    },
    /// A special token that is not in the vocabulary.
    #[error("tokenizer.ggml.{key} is {id}, but there are {tokens} tokens")]
    Special {
        /// Which one.
        key: &'static str,
        /// Its id.
        id: u32,
        /// Number of tokens.
        tokens: usize,
    },
    /// A merge of what are not tokens, or into what is none.
    #[error("merge {index}, `{}`, does not name two tokens that together are a third", merge.escape_debug())]
    Merge {
        /// Its place in the list.
        index: usize,
        /// The merge.
        merge: String,
    },
}

/// Values of `tokenizer.ggml.token_type` that are treated specially.
mod token_type {
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
    pub(super) const UNUSED: i32 = 5;
    pub(super) const BYTE: i32 = 6;
}

impl Vocabulary<'_> {
    /// Longest token that is taken. It bounds the time that it takes to find the merges of a hostile vocabulary; the
    /// longest real ones are runs of spaces or dashes with a few hundred bytes.
    const MAX_TOKEN_BYTES: usize = 1024;

    /// The token that is put before every text, if there is one.
    #[must_use]
    pub fn first_token(&self) -> Option<u32> {
        let usual = match self.model {
            "gpt2" => PreTokenizer::find(self.pre).is_ok_and(|pre| pre.begins_with_bos()),
            _ => true,
        };
        self.bos.filter(|_| self.add_bos.unwrap_or(usual))
    }

    /// The content of a `tokenizer.json` that does the same: as Hugging Face's own conversion from SentencePiece makes
    /// it, or as the models whose `pre` it is were published with.
    ///
    /// # Errors
    ///
    /// The kind is not supported, or the lists contradict one another or themselves.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>, VocabularyError> {
        let tokens = Tokens::new(self)?;
        let tokenizer = match self.model {
            "llama" => self.sentence_piece(&tokens)?,
            "gpt2" => self.byte_level(&tokens)?,
            other => {
                let what = format!("tokenizer.ggml.model `{}`", other.escape_debug());
                return Err(VocabularyError::Unsupported { what });
            }
        };
        // Strings, numbers and maps with string keys: there is nothing here that JSON cannot express.
        Ok(serde_json::to_vec(&tokenizer).unwrap_or_default())
    }

    fn kind(&self, id: usize) -> i32 {
        self.types.get(id).copied().unwrap_or_default()
    }

    /// Tokens that are looked for in a text before it is cut into words.
    fn added_tokens<'t>(&self, tokens: &'t Tokens<'_>) -> Vec<AddedToken<'t>> {
        let is = |token: Option<u32>, id| token.is_some_and(|token| token as usize == id);
        let added = tokens.names.iter().enumerate().filter_map(|(id, content)| {
            let special = matches!(self.kind(id), token_type::UNKNOWN | token_type::CONTROL)
                || is(self.bos, id)
                || is(self.eos, id)
                || is(self.unknown, id);
            let added = special || self.kind(id) == token_type::USER_DEFINED;
            added.then(|| AddedToken::new(id, content, special))
        });
        added.collect()
    }
}

/// The tokens, all different, and their ids.
struct Tokens<'a> {
    names: Vec<Cow<'a, str>>,
    ids: HashMap<Cow<'a, str>, u32>,
}

impl<'a> Tokens<'a> {
    fn new(vocabulary: &Vocabulary<'a>) -> Result<Self, VocabularyError> {
        let tokens = vocabulary.tokens.len();
        if tokens == 0 {
            return Err(VocabularyError::Empty { key: "tokens" });
        }
        let lists = [
            ("scores", vocabulary.scores.len()),
            ("token_type", vocabulary.types.len()),
        ];
        if let Some((key, found)) = lists
            .into_iter()
            .find(|(_, found)| ![0, tokens].contains(found))
        {
            return Err(VocabularyError::Length { key, found, tokens });
        }
        let specials = [
            ("bos_token_id", vocabulary.bos),
            ("eos_token_id", vocabulary.eos),
            ("unknown_token_id", vocabulary.unknown),
        ];
        for (key, id) in specials {
            if let Some(id) = id.filter(|id| *id as usize >= tokens) {
                return Err(VocabularyError::Special { key, id, tokens });
            }
        }
        let mut names = Vec::with_capacity(tokens);
        let mut ids = HashMap::with_capacity(tokens);
        for (id, token) in vocabulary.tokens.iter().enumerate() {
            let bytes = token.len();
            if bytes > Vocabulary::MAX_TOKEN_BYTES {
                return Err(VocabularyError::Long { id, bytes });
            }
            // No text becomes an empty token, but its id must have a name.
            let name = match *token {
                "" => Cow::Owned(format!("[EMPTY_{id}]")),
                token => Cow::Borrowed(token),
            };
            if let Some(first) = ids.insert(name.clone(), id as u32) {
                let token = name.into_owned();
                return Err(VocabularyError::Duplicate {
                    first,
                    second: id,
                    token,
                });
            }
            names.push(name);
        }
        Ok(Self { names, ids })
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    fn name(&self, id: u32) -> &str {
        &self.names[id as usize]
    }
}

/// The vocabulary of a model in `tokenizer.json`: ids by token, in their order.
impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().zip(0_u32..))
    }
}

/// `tokenizer.json`.
#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: (),
    decoder: Value,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct AddedToken<'a> {
    id: usize,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl<'a> AddedToken<'a> {
    fn new(id: usize, content: &'a str, special: bool) -> Self {
        Self {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special,
        }
    }
}

#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    unk_token: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: &'a Tokens<'a>,
    merges: Vec<(&'a str, &'a str)>,
}
