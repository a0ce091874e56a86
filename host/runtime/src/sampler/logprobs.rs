use halo_models::Tokenizer;
use serde::{Deserialize, Serialize};

/// How likely the model thought a token, whatever the sampling made of it: natural logarithms of probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    /// Of the chosen token.
    pub logprob: f32,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<Alternative>,
}

/// A token that could have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// Its number in the vocabulary.
    pub id: u32,
    /// How the vocabulary writes it.
    pub piece: String,
    /// Logarithm of its probability.
    pub logprob: f32,
}

/// The log-softmax of `logits` for the chosen token and the `top` likeliest.
pub(crate) fn logprobs(tokenizer: &Tokenizer, logits: &[f32], chosen: u32, top: usize) -> Logprobs {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
    let logprob = |id: u32| (f64::from(logits[id as usize] - largest) - sum.ln()) as f32;
    let likelier = |a: &u32, b: &u32| {
        logits[*b as usize]
            .total_cmp(&logits[*a as usize])
            .then(a.cmp(b))
    };
    let mut ids: Vec<u32> = Vec::new();
    if top > 0 {
        ids = (0..logits.len() as u32).collect();
        if top < ids.len() {
            ids.select_nth_unstable_by(top, likelier);
            ids.truncate(top);
        }
        ids.sort_unstable_by(likelier);
    }
    let alternative = |id| Alternative {
        id,
        piece: tokenizer.piece(id).unwrap_or_default(),
        logprob: logprob(id),
    };
    Logprobs {
        logprob: logprob(chosen),
        top: ids.into_iter().map(alternative).collect(),
    }
}
