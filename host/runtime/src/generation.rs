//! The token loop: prompt in, tokens out. Where the feed-forward is computed is somebody else's business.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use halo_engine::{Backbone, FeedForwardSource, KvCache};
use halo_models::{Shape, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::error::GenerationError;
use crate::sampler::{Sampler, Sampling};
use crate::telemetry::Counts;

/// Rows that go through the layers at once while the prompt is read. More would be faster to compute and make longer bursts
/// on the network.
pub const PREFILL_ROWS: usize = 32;

/// What to generate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The text to continue.
    pub prompt: String,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
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
    /// The text that is complete with it. Empty while a character's bytes are spread over tokens.
    pub text: String,
    /// Share of the predicted contribution that was concealed while computing it, 0 to 1.
    pub concealed: f32,
    /// Seconds since the generation began.
    pub seconds: f64,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    Context,
    /// The caller said so.
    Stopped,
}

/// What a generation was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Tokens of the prompt, with the beginning-of-text token.
    pub prompt_tokens: usize,
    /// The generated tokens.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Seconds until the first token.
    pub prefill_seconds: f64,
    /// Seconds from the first token to the last.
    pub decode_seconds: f64,
    /// Longest pause between two tokens, in seconds.
    pub longest_pause_seconds: f64,
    /// Share of predicted contribution concealed, averaged over the tokens.
    pub concealed: f32,
    /// What happened on the network.
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

/// Whoever computes the feed-forward of a generation, and keeps the account of it.
pub trait Source: FeedForwardSource<Error = GenerationError> {
    /// A new generation begins.
    fn restart(&mut self);

    /// The share of predicted contribution that the last forward pass went without, 0 to 1.
    fn concealed(&self) -> f32;

    /// What has happened so far.
    fn counts(&self) -> Counts;
}

/// A prompt's tokens. It must not be empty, and leave room for at least one more.
pub(crate) fn encode(
    shape: &Shape,
    tokenizer: &Tokenizer,
    prompt: &str,
) -> Result<Vec<u32>, GenerationError> {
    if prompt.is_empty() {
        return Err(GenerationError::EmptyPrompt);
    }
    let mut tokens: Vec<u32> = shape.bos.into_iter().collect();
    tokens.extend(tokenizer.encode(prompt)?);
    if tokens.len() >= shape.context {
        return Err(GenerationError::PromptTooLong {
            tokens: tokens.len(),
            context: shape.context,
        });
    }
    Ok(tokens)
}

/// Generates tokens, telling `each` of every one as it comes.
///
/// # Errors
///
/// The prompt is empty or too long for the context, or a pass fails.
pub(crate) fn generate(
    backbone: &mut Backbone,
    tokenizer: &Tokenizer,
    source: &mut (dyn Source + Send),
    request: &Request,
    mut each: impl FnMut(&Token) -> ControlFlow<()>,
) -> Result<Report, GenerationError> {
    let shape = backbone.package().shape().clone();
    let started = Instant::now();
    let tokens = encode(&shape, tokenizer, &request.prompt)?;
    let prompt_tokens = tokens.len();
    let capacity = shape
        .context
        .min(prompt_tokens.saturating_add(request.max_tokens));
    source.restart();
    let mut cache = KvCache::new(&shape, capacity)?;
    let mut sampler = Sampler::new(request.sampling.clone());
    let mut decoder = tokenizer.decode_stream(&tokens);
    let mut logits = Vec::new();
    let mut report = Report {
        prompt_tokens,
        tokens: Vec::new(),
        text: String::new(),
        finish: Finish::MaxTokens,
        prefill_seconds: 0.0,
        decode_seconds: 0.0,
        longest_pause_seconds: 0.0,
        concealed: 0.0,
        counts: Counts::default(),
    };
    let (mut first, mut last) = (None, started);
    let mut pending = tokens;
    while report.tokens.len() < request.max_tokens {
        let mut concealed = 0.0;
        let mut hidden = Vec::new();
        let rows = pending.len();
        for chunk in pending.chunks(PREFILL_ROWS) {
            hidden = backbone.forward(chunk, &mut cache, source)?;
            concealed += source.concealed() * chunk.len() as f32 / rows as f32;
        }
        backbone.logits(&hidden[hidden.len() - shape.width..], &mut logits)?;
        let id = sampler.next(&logits).ok_or(GenerationError::NoLogits)?;
        let now = Instant::now();
        if first.is_some() {
            report.longest_pause_seconds =
                report.longest_pause_seconds.max((now - last).as_secs_f64());
        }
        last = now;
        first.get_or_insert(now);
        if shape.eos.contains(&id) && !request.ignore_eos {
            report.finish = Finish::EndOfText;
            break;
        }
        let index = report.tokens.len();
        report.concealed += (concealed - report.concealed) / (index + 1) as f32;
        report.tokens.push(id);
        let text = decoder.push(id)?;
        report.text.push_str(&text);
        let token = Token {
            index,
            id,
            text,
            concealed,
            seconds: (now - started).as_secs_f64(),
        };
        if each(&token).is_break() {
            report.finish = Finish::Stopped;
            break;
        }
        if cache.length() == shape.context {
            report.finish = Finish::Context;
            break;
        }
        pending = vec![id];
    }
    report.text.push_str(&decoder.finish()?);
    let first = first.unwrap_or(last);
    report.prefill_seconds = (first - started).as_secs_f64();
    report.decode_seconds = last
        .saturating_duration_since(first)
        .max(Duration::ZERO)
        .as_secs_f64();
    report.counts = source.counts();
    Ok(report)
}
