use halo_engine::{Backbone, Engine, FeedForward, FeedForwardSource, FeedForwardStep};
use halo_models::Package;
use nalgebra::{DMatrix, DMatrixView, DMatrixViewMut};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::contributions::Contributions;
use crate::{EvalError, Perplexity, Progress, Rule, Stage, perplexity};

/// Writes a score for each group of a layer, given the residual stream of a row one round earlier (`width` values).
pub type Predict<'a> = dyn FnMut(usize, &[f32], &mut Vec<f32>) -> Result<(), EvalError> + 'a;

/// By what the groups that are computed are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The norms of their contributions, which only computing them all tells: the best that any prediction could do.
    Oracle,
    /// A predictor's scores.
    Predicted,
    /// Their mean importance: the same groups for every token.
    Mean,
    /// Chance.
    Random,
}

impl Order {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [Self::Oracle, Self::Predicted, Self::Mean, Self::Random];
}

/// How well a model predicts a text with some of its groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Selections {
    /// With all of them.
    pub whole: Perplexity,
    /// With fewer.
    pub selections: Vec<Selection>,
}

/// How well a model predicts a text with so many of its groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Groups of each layer that are computed.
    pub groups: usize,
    /// By what they are chosen, and what comes of it.
    pub perplexity: Vec<(Order, Perplexity)>,
}

/// The perplexity of a model that computes, for every token and layer, only so many of the groups (each of `counts`), those
/// with the highest scores: by each [`Order`]. `mean` is the groups' mean importance, `[layers, groups]`.
///
/// # Errors
///
/// The model, the tokenizer or `predict` fails, or there is nothing to predict at all.
#[allow(clippy::too_many_arguments, reason = "each is a different thing")]
pub fn selections(
    engine: &Engine,
    package: &Package,
    texts: &[String],
    rule: &Rule,
    counts: &[usize],
    mean: &[f32],
    predict: &mut Predict<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Selections, EvalError> {
    let tokenizer = package.tokenizer()?;
    let mut backbone = Backbone::load(engine, package)?;
    let mut selected = Selected {
        package,
        feed_forward: FeedForward::load_all(engine, package)?,
        contributions: Contributions::new(package),
        mean,
        predict,
        random: Xoshiro256PlusPlus::seed_from_u64(0),
        order: Order::Oracle,
        left_out: 0,
        earlier: Vec::new(),
        activations: Vec::new(),
    };
    let total = (1 + counts.len() * Order::ALL.len()) * texts.len();
    let mut done = 0;
    let mut measure = |count: usize, order| {
        selected.order = order;
        selected.left_out = package.groups().saturating_sub(count);
        let each = &mut |_| {
            done += 1;
            progress(Progress {
                stage: Stage::Running,
                done,
                total,
            });
        };
        perplexity(&mut backbone, &mut selected, &tokenizer, texts, rule, each)
    };
    let whole = measure(package.groups(), Order::Oracle)?;
    let mut select = |&groups: &usize| {
        let by = |order| Ok((order, measure(groups, order)?));
        let perplexity: Result<_, EvalError> = Order::ALL.into_iter().map(by).collect();
        let perplexity = perplexity?;
        Ok(Selection { groups, perplexity })
    };
    let selections: Result<_, EvalError> = counts.iter().map(&mut select).collect();
    Ok(Selections {
        whole,
        selections: selections?,
    })
}

/// A feed-forward that leaves out the groups with the lowest scores.
struct Selected<'a, 'p> {
    package: &'a Package,
    feed_forward: FeedForward,
    contributions: Contributions,
    mean: &'a [f32],
    predict: &'a mut Predict<'p>,
    random: Xoshiro256PlusPlus,
    order: Order,
    /// Groups of each row and layer that are left out.
    left_out: usize,
    /// The residual stream one round earlier, `[rows, width]`.
    earlier: Vec<f32>,
    activations: Vec<f32>,
}

impl FeedForwardSource for Selected<'_, '_> {
    type Error = EvalError;

    fn begin(&mut self, embedded: &[f32]) -> Result<(), EvalError> {
        self.earlier = embedded.to_vec();
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EvalError> {
        let FeedForwardStep {
            layer,
            hidden,
            normed,
            sum,
        } = step;
        self.feed_forward
            .run_observed(layer, normed, sum, &mut self.activations)?;
        if self.left_out > 0 {
            self.leave_out(layer)?;
            self.project(layer, sum);
        }
        self.earlier.copy_from_slice(hidden);
        Ok(())
    }
}

impl Selected<'_, '_> {
    /// Zeroes the activations of the groups that are left out, row by row.
    fn leave_out(&mut self, layer: usize) -> Result<(), EvalError> {
        let (groups, size) = (self.package.groups(), self.package.group_size());
        let mut norms = Vec::new();
        if self.order == Order::Oracle {
            self.contributions
                .norms(layer, &self.activations, &mut norms);
        }
        let mut scores = Vec::new();
        let mut ranked: Vec<usize> = Vec::new();
        let rows = self.activations.chunks_exact_mut(groups * size);
        let earlier = self.earlier.chunks_exact(self.package.shape().width);
        for (row, (activations, earlier)) in rows.zip(earlier).enumerate() {
            scores.clear();
            match self.order {
                Order::Oracle => scores.extend(&norms[row * groups..][..groups]),
                Order::Predicted => (self.predict)(layer, earlier, &mut scores)?,
                Order::Mean => scores.extend(&self.mean[layer * groups..][..groups]),
                Order::Random => scores.extend((0..groups).map(|_| self.random.random::<f32>())),
            }
            ranked.clear();
            ranked.extend(0..groups);
            ranked.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            for group in &ranked[..self.left_out.min(groups)] {
                activations[group * size..][..size].fill(0.0);
            }
        }
        Ok(())
    }

    /// The down projection of the activations.
    fn project(&self, layer: usize, sum: &mut [f32]) {
        let (width, size) = (self.package.shape().width, self.package.group_size());
        let neurons = self.package.groups() * size;
        let rows = sum.len() / width;
        let activations = DMatrixView::from_slice(&self.activations, neurons, rows);
        let mut sum = DMatrixViewMut::from_slice(sum, width, rows);
        sum.fill(0.0);
        for group in 0..self.package.groups() {
            let down = self.package.group(layer, group).down.dequantise();
            let down = DMatrix::from_row_slice(width, size, &down);
            sum.gemm(1.0, &down, &activations.rows(group * size, size), 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use halo_engine::{EngineOptions, KvCache};

    use super::*;

    /// The default model with some groups of each layer, the same for all tokens: what the engine computes of them.
    fn of_subset(engine: &Engine, package: &Package, groups: &[u32], tokens: &[u32]) -> Vec<f32> {
        let layers = package.shape().layers;
        let mut subset =
            FeedForward::load(engine, package, &vec![groups.to_vec(); layers]).unwrap();
        let mut cache = KvCache::new(package.shape(), tokens.len());
        let mut backbone = Backbone::load(engine, package).unwrap();
        backbone.forward(tokens, &mut cache, &mut subset).unwrap()
    }

    #[test]
    fn the_groups_with_the_highest_scores_are_computed_and_no_others() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");
        let package = Package::open(Path::new(path)).unwrap();
        let engine = Engine::start(&EngineOptions::default()).unwrap();
        let groups = package.groups();
        let kept: Vec<u32> = (0..groups as u32).filter(|g| g % 3 != 1).collect();
        let mean: Vec<f32> = (0..package.shape().layers * groups)
            .map(|i| {
                if (i % groups) % 3 == 1 {
                    0.1
                } else {
                    1.0 + i as f32
                }
            })
            .collect();
        let tokens = [1, 403, 407, 261, 378];
        let expected = of_subset(&engine, &package, &kept, &tokens);

        let mut no_prediction = |_: usize, _: &[f32], _: &mut Vec<f32>| unreachable!();
        let mut selected = Selected {
            package: &package,
            feed_forward: FeedForward::load_all(&engine, &package).unwrap(),
            contributions: Contributions::new(&package),
            mean: &mean,
            predict: &mut no_prediction,
            random: Xoshiro256PlusPlus::seed_from_u64(0),
            order: Order::Mean,
            left_out: groups - kept.len(),
            earlier: Vec::new(),
            activations: Vec::new(),
        };
        let mut cache = KvCache::new(package.shape(), tokens.len());
        let mut backbone = Backbone::load(&engine, &package).unwrap();
        let got = backbone
            .forward(&tokens, &mut cache, &mut selected)
            .unwrap();
        let greatest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        let furthest = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let furthest = furthest.fold(0f32, f32::max);
        // The engine rounds activations to 8 bits.
        assert!(furthest < 0.03 * greatest, "{furthest} of {greatest}");
        let whole = of_subset(
            &engine,
            &package,
            &(0..groups as u32).collect::<Vec<_>>(),
            &tokens,
        );
        let whole = whole.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        assert!(whole.fold(0f32, f32::max) > 0.1 * greatest);
    }
}
