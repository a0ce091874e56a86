use halo_models::Package;
use tracing::trace_span;

use crate::{Attention, Engine, EngineError, Head, KvCache, Part, TIMELINE};

/// What the leader of a generation always has: embedding, every layer's attention, the output head. The feed-forward is the
/// caller's, since its groups may be anywhere.
#[derive(Debug)]
pub struct Backbone {
    package: Package,
    attention: Attention,
    head: Head,
}

/// Tokens of one generation that are run after those in its cache.
#[derive(Debug)]
pub struct Continuation<'a> {
    /// The tokens, of which there is at least one.
    pub tokens: &'a [u32],
    /// What the generation has run so far.
    pub cache: &'a mut KvCache,
}

/// The attention of one layer, for a [`FeedForwardSource`] that shares it with others.
#[derive(Debug)]
pub struct AttentionStep<'a, 'c> {
    /// Which layer.
    pub layer: usize,
    /// Whose rows they are, one generation's after another's.
    pub parts: &'a mut [Part<'c>],
    /// The residual stream, `[rows, width]`; to be that after attention.
    pub hidden: &'a mut [f32],
    /// To be filled: the feed-forward's input, `[rows, width]`.
    pub normed: &'a mut [f32],
}

/// The feed-forward step of one layer, for a [`FeedForwardSource`] to fill.
#[derive(Debug)]
pub struct FeedForwardStep<'a> {
    /// Which layer.
    pub layer: usize,
    /// The residual stream after attention, `[rows, width]`.
    pub hidden: &'a [f32],
    /// The feed-forward's input: the same, normed.
    pub normed: &'a [f32],
    /// To be filled: the sum of all groups' contributions, `[rows, width]`. Zero when handed over.
    pub sum: &'a mut [f32],
}

/// Whoever computes the feed-forward, and maybe shares in the attention: this machine, others, or both.
pub trait FeedForwardSource {
    /// What can go wrong.
    type Error: From<EngineError>;

    /// A forward pass begins: its rows' embeddings, `[rows, width]`.
    ///
    /// # Errors
    ///
    /// The pass cannot go on.
    fn begin(&mut self, embedded: &[f32]) -> Result<(), Self::Error>;

    /// Told before [`begin`](Self::begin): which row is the last of each generation in the pass, the one whose next token is
    /// wanted.
    fn ends(&mut self, _rows: &[usize]) {}

    /// One layer's attention. False, and nothing done, if it is all the backbone's.
    ///
    /// # Errors
    ///
    /// It cannot be computed.
    fn attend(&mut self, _step: AttentionStep<'_, '_>) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// One layer: fills `step.sum`.
    ///
    /// # Errors
    ///
    /// It cannot be computed.
    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), Self::Error>;
}

impl Backbone {
    /// Loads everything but the feed-forward groups.
    ///
    /// # Errors
    ///
    /// ONNX Runtime refuses a graph, or the package's weights cannot be read.
    pub fn load(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        Ok(Self {
            package: package.clone(),
            attention: Attention::load(engine, package)?,
            head: Head::load(engine, package)?,
        })
    }

    /// The package it was loaded from.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// Runs `tokens` after those in `cache` and returns the residual stream after the last layer, `[tokens, width]`.
    ///
    /// # Errors
    ///
    /// As for [`forward_all`](Self::forward_all).
    pub fn forward<S: FeedForwardSource + ?Sized>(
        &mut self,
        tokens: &[u32],
        cache: &mut KvCache,
        source: &mut S,
    ) -> Result<Vec<f32>, S::Error> {
        self.forward_all(&mut [Continuation { tokens, cache }], source)
    }

    /// Runs several generations' tokens in one pass, so that the weights are read once for all of them, and returns the
    /// residual stream after the last layer, `[tokens, width]`, of one generation after another. A generation's rows are what
    /// they would be by themselves, to within rounding.
    ///
    /// # Errors
    ///
    /// A cache is full, a token is not in the vocabulary, ONNX Runtime fails, or `source` does. The caches then still end
    /// where they did before.
    pub fn forward_all<S: FeedForwardSource + ?Sized>(
        &mut self,
        generations: &mut [Continuation<'_>],
        source: &mut S,
    ) -> Result<Vec<f32>, S::Error> {
        let width = self.package.shape().width;
        let (mut hidden, mut ends) = (Vec::new(), Vec::new());
        for generation in &*generations {
            for token in generation.tokens {
                let start = hidden.len();
                hidden.resize(start + width, 0f32);
                let row = &mut hidden[start..];
                self.package
                    .embedding(*token, row)
                    .map_err(EngineError::from)?;
            }
            ends.push((hidden.len() / width).saturating_sub(1));
        }
        let mut parts: Vec<Part<'_>> = generations
            .iter_mut()
            .map(|generation| Part {
                rows: generation.tokens.len(),
                start: generation.cache.length(),
                cache: generation.cache,
            })
            .collect();
        source.ends(&ends);
        source.begin(&hidden)?;
        let (mut normed, mut sum) = (vec![0f32; hidden.len()], vec![0f32; hidden.len()]);
        for layer in 0..self.package.shape().layers {
            let shared = source.attend(AttentionStep {
                layer,
                parts: &mut parts,
                hidden: &mut hidden,
                normed: &mut normed,
            })?;
            if !shared {
                trace_span!(target: TIMELINE, "attention", layer).in_scope(|| {
                    self.attention
                        .run(layer, &mut parts, &mut hidden, &mut normed)
                })?;
            }
            sum.fill(0.0);
            source.step(FeedForwardStep {
                layer,
                hidden: &hidden,
                normed: &normed,
                sum: &mut sum,
            })?;
            for (h, s) in hidden.iter_mut().zip(&sum) {
                *h += s;
            }
        }
        for part in parts {
            part.cache.advance(part.rows);
        }
        Ok(hidden)
    }

    /// Logits of rows of the residual stream after the last layer: `[rows, vocabulary]`.
    ///
    /// # Errors
    ///
    /// The buffer does not fit, or ONNX Runtime fails.
    pub fn logits(&mut self, hidden: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        trace_span!(target: TIMELINE, "output head").in_scope(|| self.head.run(hidden, logits))
    }
}
