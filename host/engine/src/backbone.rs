use halo_models::Package;

use crate::{Attention, Engine, EngineError, Head, KvCache};

/// What the leader of a generation always has: embedding, every layer's attention, the output head. The feed-forward is the
/// caller's, since its groups may be anywhere.
#[derive(Debug)]
pub struct Backbone {
    package: Package,
    attention: Attention,
    head: Head,
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

/// Whoever computes the feed-forward: this machine, others, or both.
pub trait FeedForwardSource {
    /// What can go wrong.
    type Error: From<EngineError>;

    /// A forward pass begins: its rows' embeddings, `[rows, width]`.
    ///
    /// # Errors
    ///
    /// The pass cannot go on.
    fn begin(&mut self, embedded: &[f32]) -> Result<(), Self::Error>;

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
    /// The cache is full, a token is not in the vocabulary, ONNX Runtime fails, or `source` does. The cache then still ends
    /// where it did before.
    pub fn forward<S: FeedForwardSource + ?Sized>(
        &mut self,
        tokens: &[u32],
        cache: &mut KvCache,
        source: &mut S,
    ) -> Result<Vec<f32>, S::Error> {
        let width = self.package.shape().width;
        let mut hidden = vec![0f32; tokens.len() * width];
        for (token, row) in tokens.iter().zip(hidden.chunks_mut(width)) {
            self.package
                .embedding(*token, row)
                .map_err(EngineError::from)?;
        }
        source.begin(&hidden)?;
        let (mut normed, mut sum) = (vec![0f32; hidden.len()], vec![0f32; hidden.len()]);
        for layer in 0..self.package.shape().layers {
            self.attention.run(layer, cache, &mut hidden, &mut normed)?;
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
        cache.advance(tokens.len());
        Ok(hidden)
    }

    /// Logits of rows of the residual stream after the last layer: `[rows, vocabulary]`.
    ///
    /// # Errors
    ///
    /// The buffer does not fit, or ONNX Runtime fails.
    pub fn logits(&mut self, hidden: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        self.head.run(hidden, logits)
    }
}
