use std::fmt;

use halo_engine::FeedForwardSource;
use serde::Serialize;

use crate::reader::Reader;
use crate::{EvalError, Progress, Stage, documents};

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

/// The perplexity of a model on some documents. Documents without a token to predict do not count.
///
/// # Errors
///
/// The model or the tokenizer fails, or there is nothing to predict at all.
pub fn perplexity<S>(
    reader: &mut Reader<'_, S>,
    texts: &[String],
    rule: &Rule,
    progress: &mut dyn FnMut(Progress),
) -> Result<Perplexity, EvalError>
where
    S: FeedForwardSource + ?Sized,
    EvalError: From<S::Error>,
{
    let shape = reader.shape();
    let context = rule.tokens.min(shape.context);
    let (mut nll, mut count) = (0.0, 0);
    for (index, text) in texts.iter().enumerate() {
        let mut tokens = documents::whole(&shape, reader.tokenizer, text)?;
        tokens.truncate(context);
        reader.read(&tokens, 1, |logits, token| {
            nll += surprise(logits, token);
            count += 1;
        })?;
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
