use std::fmt;

use halo_engine::{Backbone, FeedForwardSource, KvCache};
use halo_models::Tokenizer;
use serde::Serialize;

use crate::{EvalError, Progress, Stage, documents};

/// Logits held at a time: large vocabularies would otherwise take gigabytes.
const LOGITS: usize = 1 << 23;

/// How tokens are counted: each document is a begin token, its text and an end token (so far as the model has them), cut to
/// some number of tokens; every token but the first is predicted from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Tokens to which a document is cut. Never more than the model's context are used.
    pub tokens: usize,
}

impl Default for Rule {
    fn default() -> Self {
        Self { tokens: 512 }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.tokens;
        write!(
            f,
            "each document with its begin and end token, cut to {tokens} tokens, mean over all predicted tokens"
        )
    }
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// The exponential of the mean negative log-likelihood: 1 is perfect, the vocabulary's size is guessing.
    pub value: f64,
    /// Tokens predicted.
    pub tokens: usize,
    /// Sum of their negative log-likelihoods, in nats.
    pub nll: f64,
}

/// The perplexity of a model on some documents, its feed-forward computed by `feed_forward`. Each document is one pass;
/// documents without a token to predict do not count.
///
/// # Errors
///
/// The model or the tokenizer fails, or there is nothing to predict at all.
pub fn perplexity<S>(
    backbone: &mut Backbone,
    feed_forward: &mut S,
    tokenizer: &Tokenizer,
    texts: &[String],
    rule: &Rule,
    progress: &mut dyn FnMut(Progress),
) -> Result<Perplexity, EvalError>
where
    S: FeedForwardSource + ?Sized,
    EvalError: From<S::Error>,
{
    let shape = backbone.package().shape().clone();
    let context = rule.tokens.min(shape.context);
    let mut cache = KvCache::new(&shape, context);
    let rows = (LOGITS / shape.vocabulary).max(1);
    let mut logits = Vec::new();
    let (mut nll, mut count) = (0.0, 0);
    for (index, text) in texts.iter().enumerate() {
        let mut tokens = documents::whole(&shape, tokenizer, text)?;
        tokens.truncate(context);
        if let Some((_, given @ [_, ..])) = tokens.split_last() {
            cache.truncate(0);
            let hidden = backbone.forward(given, &mut cache, feed_forward)?;
            let parts = hidden.chunks(rows * shape.width);
            for (hidden, next) in parts.zip(tokens[1..].chunks(rows)) {
                backbone.logits(hidden, &mut logits)?;
                let each = logits.chunks_exact(shape.vocabulary).zip(next);
                nll += each
                    .map(|(logits, token)| surprise(logits, *token))
                    .sum::<f64>();
                count += next.len();
            }
        }
        progress(Progress {
            stage: Stage::Running,
            done: index + 1,
            total: texts.len(),
        });
    }
    if count == 0 {
        let documents = texts.len();
        return Err(EvalError::NothingToPredict { documents });
    }
    Ok(Perplexity {
        value: (nll / count as f64).exp(),
        tokens: count,
        nll,
    })
}

/// The negative log-likelihood of a token, in nats.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
    let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_the_negative_log_of_softmax() {
        let logits = [1.0f32, 3.0, -2.0];
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (token, logit) in logits.iter().enumerate() {
            let expected = -(f64::from(*logit).exp() / sum).ln();
            assert!((surprise(&logits, token as u32) - expected).abs() < 1e-12);
        }
        // Large logits must not overflow.
        assert!((surprise(&[1e4, 1e4], 0) - 2f64.ln()).abs() < 1e-12);
    }
}
