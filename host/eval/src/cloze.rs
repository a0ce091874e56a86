use halo_engine::FeedForwardSource;
use serde::Serialize;

use crate::reader::Reader;
use crate::{EvalError, Interval, Progress, Stage};

/// A text with one word left out at its end, which is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// What comes before it, without the space.
    pub given: String,
    /// The word.
    pub answer: String,
}

/// How many gaps a model filled with the right word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cloze {
    /// Gaps filled rightly.
    pub right: usize,
    /// All gaps.
    pub gaps: usize,
}

impl Cloze {
    /// The share of gaps filled rightly, 0 to 1.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.gaps as f64
    }

    /// Between which shares the accuracy on all such gaps is, with 95 % confidence (Wilson's score interval).
    #[must_use]
    pub fn interval(&self) -> Interval {
        const Z: f64 = 1.96;
        let (share, n) = (self.accuracy(), self.gaps as f64);
        let centre = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half =
            Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        Interval {
            mean: share,
            low: centre - half,
            high: centre + half,
        }
    }
}

/// How often a model that always takes the likeliest token fills a gap with its answer: every token of it must be the
/// likeliest after those before it.
///
/// # Errors
///
/// The model or the tokenizer fails, a gap does not fit the model's context, or there is none.
pub fn cloze<S>(
    reader: &mut Reader<'_, S>,
    gaps: &[Gap],
    progress: &mut dyn FnMut(Progress),
) -> Result<Cloze, EvalError>
where
    S: FeedForwardSource + ?Sized,
    EvalError: From<S::Error>,
{
    if gaps.is_empty() {
        return Err(EvalError::Option("there is no gap to fill".into()));
    }
    let shape = reader.shape();
    let mut right = 0;
    for (index, gap) in gaps.iter().enumerate() {
        let encode = |text: &str| -> Result<Vec<u32>, EvalError> {
            let text = reader.tokenizer.encode(text)?;
            Ok(shape.bos.into_iter().chain(text).collect())
        };
        let given = encode(&gap.given)?;
        let whole = encode(&format!("{} {}", gap.given, gap.answer))?;
        // Where words join into one token, the answer begins with that.
        let common = given.iter().zip(&whole).take_while(|(a, b)| a == b);
        let first = common.count().max(1);
        if whole.len() > shape.context {
            return Err(EvalError::Option(format!(
                "gap {index} has {} tokens, and the model's context {}",
                whole.len(),
                shape.context
            )));
        }
        let mut all = true;
        reader.read(&whole, first, |logits, token| {
            all &= likeliest(logits) == token
        })?;
        right += usize::from(all);
        progress(Progress {
            stage: Stage::Running,
            done: index + 1,
            total: gaps.len(),
        });
    }
    Ok(Cloze {
        right,
        gaps: gaps.len(),
    })
}

/// The token with the largest logit, the first of several.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        // Newcombe 1998, table I: 81 of 263, and 15 of 148.
        for (right, gaps, low, high) in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)] {
            let interval = Cloze { right, gaps }.interval();
            assert!((interval.low - low).abs() < 1e-4, "{interval:?}");
            assert!((interval.high - high).abs() < 1e-4, "{interval:?}");
        }
        let all = Cloze { right: 9, gaps: 9 }.interval();
        assert!((all.high - 1.0).abs() < 1e-12 && all.low < 0.75);
    }

    #[test]
    fn the_first_of_the_largest_is_likeliest() {
        assert_eq!(likeliest(&[0.0, 2.0, 2.0, -1.0]), 1);
    }
}
