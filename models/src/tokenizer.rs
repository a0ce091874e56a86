//! Text to tokens and back, and back token by token.

mod vocabulary;

pub use vocabulary::{Vocabulary, VocabularyError};

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::PackageError;

/// A model's tokenizer. Cloning is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    path: Arc<Path>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` for a model of `vocabulary` tokens.
    pub(crate) fn open(path: &Path, vocabulary: usize) -> Result<Self, PackageError> {
        let bytes = std::fs::read(path).map_err(PackageError::io(path))?;
        Self::from_json(path, &bytes, vocabulary)
    }

    /// Reads the content of a `tokenizer.json` for a model of `vocabulary` tokens. `path` is for errors only.
    ///
    /// # Errors
    ///
    /// It is no tokenizer, or makes tokens that the model does not know.
    pub fn from_json(path: &Path, bytes: &[u8], vocabulary: usize) -> Result<Self, PackageError> {
        // The library panics on some JSON that is cut short, so see that it is whole.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map_err(|error| failure(path)(error.into()))?;
        let mut inner =
            guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(failure(path))?;
        // Some published tokenizers ask for truncation or padding, which belong to batches in training.
        inner.with_truncation(None).map_err(failure(path))?;
        inner.with_padding(None);
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        if largest as usize >= vocabulary {
            let path = path.into();
            return Err(PackageError::Vocabulary {
                path,
                largest,
                vocabulary,
            });
        }
        Ok(Self {
            inner: Arc::new(inner),
            path: path.into(),
        })
    }

    /// The tokens of a text. No token is put before or after it; special tokens written out in it, such as `<s>`, are
    /// taken as such.
    ///
    /// # Errors
    ///
    /// The text has something the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PackageError> {
        let encoding =
            guarded(|| self.inner.encode_fast(text, false)).map_err(failure(&self.path))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of some tokens, without the special ones. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// The tokenizer's decoder cannot put them together.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, PackageError> {
        guarded(|| self.inner.decode(tokens, true)).map_err(failure(&self.path))
    }

    /// The number of a token, by what it looks like in the vocabulary.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token that the tokenizer itself, unlike [`encode`](Self::encode), puts before every text, if any.
    pub(crate) fn first_token(&self) -> Result<Option<u32>, PackageError> {
        let encoding = guarded(|| self.inner.encode_fast("", true)).map_err(failure(&self.path))?;
        Ok(encoding.get_ids().first().copied())
    }

    /// What a token looks like in the vocabulary, for people to read.
    #[must_use]
    pub fn piece(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// A decoder for tokens that come one by one after `prompt`, which is not repeated.
    #[must_use]
    pub fn decode_stream(&self, prompt: &[u32]) -> DecodeStream {
        let window = prompt[prompt.len().saturating_sub(DecodeStream::CONTEXT)..].to_vec();
        DecodeStream {
            tokenizer: self.clone(),
            given: window.len(),
            window,
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Decodes tokens one by one, and gives out text only when its characters are whole: with byte-level tokens one
/// character may be spread over as many tokens as it has bytes.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    /// The last tokens given out, for context (whether a space comes first depends on what is before), then those
    /// held back.
    window: Vec<u32>,
    /// How many of the window have been given out.
    given: usize,
}

impl DecodeStream {
    /// Tokens of context kept from a prompt.
    const CONTEXT: usize = 8;
    /// Tokens held back at most. A character has at most four bytes, so tokens that are still not text after more
    /// than that are not UTF-8 and never will be.
    const HELD: usize = 8;
    /// Tokens that the bytes of an unfinished character can be spread over.
    const UNFINISHED: usize = 3;

    /// The text that one more token completes; often all of it, sometimes none.
    ///
    /// # Errors
    ///
    /// As for [`Tokenizer::decode`].
    pub fn push(&mut self, token: u32) -> Result<String, PackageError> {
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window)?;
        if !text.ends_with(char::REPLACEMENT_CHARACTER) {
            return self.give(self.window.len(), &text);
        }
        if self.window.len() - self.given < Self::HELD {
            return Ok(String::new());
        }
        // Not UTF-8. Give out what is before a character that may still be completed, cut where no character is.
        let last = self.window.len() - Self::UNFINISHED;
        for cut in (self.given + 1..=last).rev() {
            let head = self.tokenizer.decode(&self.window[..cut])?;
            let tail = self.tokenizer.decode(&self.window[cut..])?;
            if text.strip_prefix(&head) == Some(&tail) {
                return self.give(cut, &head);
            }
        }
        let head = self.tokenizer.decode(&self.window[..last])?;
        self.give(last, &head)
    }

    /// The rest, with U+FFFD for what never became a character.
    ///
    /// # Errors
    ///
    /// As for [`Tokenizer::decode`].
    pub fn finish(mut self) -> Result<String, PackageError> {
        if self.given == self.window.len() {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode(&self.window)?;
        self.give(self.window.len(), &text)
    }

    /// Gives out the tokens of the window up to `end`, whose text with all before is `text`.
    fn give(&mut self, end: usize, text: &str) -> Result<String, PackageError> {
        let before = self.tokenizer.decode(&self.window[..self.given])?;
        let new = match text.strip_prefix(before.as_str()) {
            Some(new) => new.to_owned(),
            // A byte that is not UTF-8 has changed how its neighbours decode: take the new tokens by themselves.
            None => self.tokenizer.decode(&self.window[self.given..end])?,
        };
        // What was just given out is context enough for what follows, unless it is no text at all.
        if !new.is_empty() {
            self.window.drain(..self.given);
            self.given = end - self.given;
        } else {
            self.given = end;
            let surplus = self.given.saturating_sub(Self::CONTEXT);
            self.window.drain(..surplus);
            self.given -= surplus;
        }
        Ok(new)
    }
}

/// Calls the library, which panics rather than fails on some tokenizers that are no tokenizers.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    // Nothing that the call could leave half done is used after it: a tokenizer is not changed by using it.
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err("the tokenizer library cannot make sense of it".into()))
}

fn failure(path: &Path) -> impl FnOnce(tokenizers::Error) -> PackageError {
    let path = PathBuf::from(path);
    move |error| PackageError::Tokenizer {
        path,
        reason: error.to_string(),
    }
}
