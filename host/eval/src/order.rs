use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::EvalError;

/// Writes a score for each group of a layer, given the residual stream of a row one round earlier (`width` values).
pub type Predict<'a> = dyn FnMut(usize, &[f32], &mut Vec<f32>) -> Result<(), EvalError> + 'a;

/// By what groups are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The norms of their contributions, which only computing them all tells: the best that any prediction could do.
    Oracle,
    /// A predictor's scores.
    Predicted,
    /// Their mean importance: the same for every token.
    Mean,
    /// Chance.
    Random,
}

impl Order {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::Oracle, Self::Predicted, Self::Mean, Self::Random];
}

/// Scores groups by any order.
pub(crate) struct Scorer<'a, 'p> {
    /// `[layers, groups]`.
    mean: &'a [f32],
    predict: &'a mut Predict<'p>,
    random: Xoshiro256PlusPlus,
}

impl<'a, 'p> Scorer<'a, 'p> {
    pub(crate) fn new(mean: &'a [f32], predict: &'a mut Predict<'p>) -> Self {
        Self {
            mean,
            predict,
            random: Xoshiro256PlusPlus::seed_from_u64(0),
        }
    }

    /// Replaces `scores` by those of one row's groups, from the norms of their contributions and the residual stream one
    /// round earlier.
    pub(crate) fn score(
        &mut self,
        order: Order,
        layer: usize,
        norms: &[f32],
        earlier: &[f32],
        scores: &mut Vec<f32>,
    ) -> Result<(), EvalError> {
        let groups = norms.len();
        scores.clear();
        match order {
            Order::Oracle => scores.extend(norms),
            Order::Predicted => (self.predict)(layer, earlier, scores)?,
            Order::Mean => scores.extend(&self.mean[layer * groups..][..groups]),
            Order::Random => scores.extend((0..groups).map(|_| self.random.random::<f32>())),
        }
        Ok(())
    }
}
