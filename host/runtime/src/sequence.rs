//! One generation's own state, between the passes that it shares with others.

use std::time::Instant;

use halo_engine::{Continuation, KvCache};
use halo_models::{DecodeStream, Shape, Tokenizer};

use crate::error::GenerationError;
use crate::generation::{Finish, Report, Request, Token};
use crate::sampler::{Sampler, logprobs};
use crate::stop_strings::StopStrings;
use crate::telemetry::Counts;

/// A generation under way.
#[derive(Debug)]
pub(crate) struct Sequence {
    request: Request,
    tokenizer: Tokenizer,
    /// Tokens that end a text.
    eos: Vec<u32>,
    /// Prompt and answer. Those beyond the cache's length have not been run yet.
    tokens: Vec<u32>,
    cache: KvCache,
    /// Whether the cache holds what it would hold if nothing had been concealed.
    whole: bool,
    sampler: Sampler,
    decoder: DecodeStream,
    stops: StopStrings,
    /// Rows run since the last token, and the share concealed in them by layer, added up.
    rows: usize,
    concealed: Vec<f32>,
    started: Instant,
    first: Option<Instant>,
    last: Instant,
    /// Seconds between tokens.
    pauses: Vec<f64>,
    before: Counts,
    report: Report,
}

/// The tokens that a KV cache holds.
#[derive(Debug)]
pub(crate) struct Computed {
    pub(crate) tokens: Vec<u32>,
    pub(crate) cache: KvCache,
}

/// A request's prompt in tokens, and how many tokens there may be with the answer's.
pub(crate) fn encode(
    shape: &Shape,
    tokenizer: &Tokenizer,
    request: &Request,
) -> Result<(Vec<u32>, usize), GenerationError> {
    request.check()?;
    let context = request.context.unwrap_or(shape.context);
    if context > shape.context {
        return Err(GenerationError::ContextTooLong {
            wanted: context,
            context: shape.context,
        });
    }
    let mut tokens = tokenizer.encode(&request.prompt)?;
    // Chat templates write it themselves.
    if let Some(bos) = shape.bos.filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    if tokens.len() >= context {
        return Err(GenerationError::PromptTooLong {
            tokens: tokens.len(),
            context,
        });
    }
    let most = tokens.len().saturating_add(request.max_tokens);
    Ok((tokens, most.min(context)))
}

impl Sequence {
    /// A generation whose prompt is `tokens`, of which `cache` may hold some already.
    pub(crate) fn new(
        shape: &Shape,
        tokenizer: &Tokenizer,
        request: &Request,
        tokens: Vec<u32>,
        cache: KvCache,
        before: Counts,
    ) -> Self {
        let now = Instant::now();
        Self {
            tokenizer: tokenizer.clone(),
            eos: shape.eos.clone(),
            whole: true,
            sampler: Sampler::new(request.sampling.clone(), &tokens),
            decoder: tokenizer.decode_stream(&tokens),
            stops: StopStrings::new(request.stop.clone()),
            rows: 0,
            concealed: vec![0.0; shape.layers],
            started: now,
            first: None,
            last: now,
            pauses: Vec::new(),
            before,
            report: Report {
                prompt_tokens: tokens.len(),
                reused_tokens: cache.length(),
                ..Report::default()
            },
            request: request.clone(),
            tokens,
            cache,
        }
    }

    /// Tokens that have not been run.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.cache.length()
    }

    /// Begins anew with an empty cache: all its tokens are run again.
    pub(crate) fn start_over(&mut self, cache: KvCache) {
        self.cache = cache;
        self.whole = true;
    }

    /// Tokens that it may have.
    pub(crate) fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// Bytes of memory that it may take beyond what it has.
    pub(crate) fn yet_to_take(&self, shape: &Shape) -> u64 {
        KvCache::bytes(shape, self.cache.capacity() - self.cache.room())
    }

    /// What it has run so far, for others to begin with. Nothing if that is not what the model says.
    pub(crate) fn computed(&self) -> (&[u32], &KvCache) {
        let length = if self.whole { self.cache.length() } else { 0 };
        (&self.tokens[..length], &self.cache)
    }

    /// Its next tokens to run, so many at most.
    pub(crate) fn next(&mut self, most: usize) -> Continuation<'_> {
        let pending = &self.tokens[self.cache.length()..];
        Continuation {
            tokens: &pending[..pending.len().min(most)],
            cache: &mut self.cache,
        }
    }

    /// Rows have been run, with these shares of their predicted contribution concealed, by layer.
    pub(crate) fn ran(&mut self, rows: usize, concealed: &[f32]) {
        self.rows += rows;
        for (sum, concealed) in self.concealed.iter_mut().zip(concealed) {
            *sum += concealed * rows as f32;
        }
        self.whole &= concealed.iter().all(|concealed| *concealed == 0.0);
    }

    /// Whether nothing more is to come, whatever the model says.
    pub(crate) fn is_full(&self) -> bool {
        self.report.tokens.len() >= self.request.max_tokens
    }

    /// Takes the logits after the last token, and gives the next one; and why it was the last, if it was.
    pub(crate) fn accept(
        &mut self,
        logits: &mut [f32],
    ) -> Result<(Option<Token>, Option<Finish>), GenerationError> {
        // The sampler takes penalties off them.
        let unpenalised = self.request.logprobs.map(|top| (top, logits.to_vec()));
        let id = self.sampler.next(logits).ok_or(GenerationError::NoLogits)?;
        let now = Instant::now();
        if self.first.is_some() {
            self.pauses.push((now - self.last).as_secs_f64());
        }
        self.last = now;
        self.first.get_or_insert(now);
        if self.eos.contains(&id) && !self.request.ignore_eos {
            return Ok((None, Some(Finish::EndOfText)));
        }
        let index = self.report.tokens.len();
        let (concealed, concealed_by_layer) = self.take_concealed();
        self.report.tokens.push(id);
        let (text, stop) = self.stops.push(&self.decoder.push(id)?);
        self.report.text.push_str(&text);
        let finish = if stop {
            Some(Finish::StopString)
        } else if self.is_full() {
            Some(Finish::MaxTokens)
        } else if self.cache.length() == self.cache.capacity() {
            Some(Finish::Context)
        } else {
            None
        };
        self.tokens.push(id);
        let token = Token {
            index,
            id,
            text,
            concealed,
            concealed_by_layer,
            seconds: (now - self.started).as_secs_f64(),
            logprobs: unpenalised.map(|(top, logits)| logprobs(&self.tokenizer, &logits, id, top)),
        };
        Ok((Some(token), finish))
    }

    /// What the token that has come went without, as a whole and by layer. The report takes it into its means.
    fn take_concealed(&mut self) -> (f32, Vec<f32>) {
        let rows = std::mem::take(&mut self.rows).max(1) as f32;
        let tokens = self.report.tokens.len() as f32;
        let layers = self.concealed.len();
        let mut by_layer = std::mem::replace(&mut self.concealed, vec![0.0; layers]);
        by_layer.iter_mut().for_each(|share| *share /= rows);
        let whole = by_layer.iter().sum::<f32>() / layers.max(1) as f32;
        if whole == 0.0 {
            by_layer.clear();
        } else {
            self.report.concealed_by_layer.resize(layers, 0.0);
        }
        let report = &mut self.report;
        report.concealed += (whole - report.concealed) / (tokens + 1.0);
        for (layer, mean) in report.concealed_by_layer.iter_mut().enumerate() {
            let share = by_layer.get(layer).copied().unwrap_or_default();
            *mean += (share - *mean) / (tokens + 1.0);
        }
        (whole, by_layer)
    }

    /// Ends it: its report, and what it has computed, if that is what the model says.
    pub(crate) fn finish(
        mut self,
        finish: Finish,
        counts: Counts,
    ) -> Result<(Report, Option<Computed>), GenerationError> {
        let mut report = self.report;
        report.finish = finish;
        if finish != Finish::StopString {
            let (text, stop) = self.stops.push(&self.decoder.finish()?);
            report.text.push_str(&text);
            report.text.push_str(&self.stops.rest());
            if stop {
                report.finish = Finish::StopString;
            }
        }
        let first = self.first.unwrap_or(self.last);
        report.prefill_seconds = (first - self.started).as_secs_f64();
        report.decode_seconds = (self.last - first).as_secs_f64();
        self.pauses.sort_by(f64::total_cmp);
        report.longest_pause_seconds = self.pauses.last().copied().unwrap_or_default();
        let median = self.pauses.get(self.pauses.len() / 2);
        report.median_pause_seconds = median.copied().unwrap_or_default();
        report.counts = counts.since(&self.before);
        self.tokens.truncate(self.cache.length());
        let computed = self.whole.then_some(Computed {
            tokens: self.tokens,
            cache: self.cache,
        });
        Ok((report, computed))
    }
}
