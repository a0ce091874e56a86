//! What a generation is asked for, and what comes of it.

use halo_engine::{FeedForwardSource, KvCache};
use halo_models::Shape;
use serde::{Deserialize, Serialize};

use crate::error::GenerationError;
use crate::generator::PREFILL_ROWS;
use crate::sampler::{Logprobs, Sampling};
use crate::telemetry::Counts;

/// What to generate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The text to continue.
    pub prompt: String,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Tokens that prompt and answer may have together; by default as many as the model was made for.
    pub context: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings that end the generation; they are not part of its text.
    pub stop: Vec<String>,
    /// Tell each token's probability, and those of as many likeliest tokens.
    pub logprobs: Option<usize>,
    /// Go on after the model's end-of-text token, for measuring.
    pub ignore_eos: bool,
}

/// One generated token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Its place among the generated tokens, from 0.
    pub index: usize,
    /// Its number in the vocabulary.
    pub id: u32,
    /// The text that is complete with it. Empty while a character's bytes are spread over tokens, or while it may be the
    /// beginning of a stop string.
    pub text: String,
    /// Share of the predicted contribution that was concealed while computing it, 0 to 1.
    pub concealed: f32,
    /// The same by layer; empty if nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concealed_by_layer: Vec<f32>,
    /// Seconds since the generation began.
    pub seconds: f64,
    /// What the model thought of it, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// A stop string has come.
    StopString,
    /// As many tokens as were asked for.
    #[default]
    MaxTokens,
    /// The context is full.
    Context,
    /// The caller said so.
    Stopped,
}

/// What a generation was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Tokens of the prompt, with the beginning-of-text token.
    pub prompt_tokens: usize,
    /// Those of them that were taken from an earlier generation's KV cache instead of computed.
    pub reused_tokens: usize,
    /// The generated tokens.
    pub tokens: Vec<u32>,
    /// Their text, up to a stop string. The tokens' own texts are the beginning of it: what was held back when the generation
    /// ended is only here.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Seconds until the first token.
    pub prefill_seconds: f64,
    /// Seconds from the first token to the last.
    pub decode_seconds: f64,
    /// Longest pause between two tokens, in seconds.
    pub longest_pause_seconds: f64,
    /// Median pause between two tokens, in seconds.
    pub median_pause_seconds: f64,
    /// Share of predicted contribution concealed, averaged over the tokens.
    pub concealed: f32,
    /// The same by layer; empty if nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concealed_by_layer: Vec<f32>,
    /// What happened on the network meanwhile, whichever generation it was for.
    pub counts: Counts,
}

impl Report {
    /// Tokens per second while decoding. Zero for fewer than two tokens.
    pub fn tokens_per_second(&self) -> f64 {
        let intervals = self.tokens.len().saturating_sub(1);
        if self.decode_seconds > 0.0 {
            intervals as f64 / self.decode_seconds
        } else {
            0.0
        }
    }
}

/// Whoever computes the feed-forward of generations, and keeps the account of it.
pub trait Source: FeedForwardSource<Error = GenerationError> {
    /// Rows that go through the layers at once: one of each generation that decodes, the rest of prompts. More are faster to
    /// compute; on a network they make longer bursts.
    fn rows(&self) -> usize {
        PREFILL_ROWS
    }

    /// A KV cache for a text of at most so many tokens, of the heads that are computed here.
    fn cache(&self, shape: &Shape, capacity: usize) -> KvCache {
        KvCache::new(shape, capacity)
    }

    /// Whether other nodes keep parts of the texts' keys and values.
    fn shares_attention(&self) -> bool {
        false
    }

    /// Whether attention has been placed elsewhere since this was asked last, so that every KV cache has to be begun anew. Asked before
    /// every pass.
    ///
    /// # Errors
    ///
    /// Whoever computes it now cannot be reached.
    fn has_moved(&mut self) -> Result<bool, GenerationError> {
        Ok(false)
    }

    /// The share of predicted contribution that the last forward pass went without, 0 to 1, by layer.
    fn concealed(&self) -> &[f32];

    /// What has happened since the source was made, in all generations.
    fn counts(&self) -> Counts;
}

impl Request {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    ///
    /// The prompt or a stop string is empty, or a sampling parameter is out of its range.
    pub fn check(&self) -> Result<(), GenerationError> {
        if self.prompt.is_empty() {
            return Err(GenerationError::EmptyPrompt);
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(GenerationError::EmptyStop);
        }
        Ok(self.sampling.check()?)
    }
}
