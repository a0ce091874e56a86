use halo_engine::{FeedForward, FeedForwardSource, FeedForwardStep};
use halo_models::Package;
use nalgebra::{DMatrix, DMatrixView, DMatrixViewMut};

use crate::EvalError;
use crate::contributions::Contributions;
use crate::order::{Order, Scorer};

/// A feed-forward that goes without the groups with the lowest scores, in every row and layer.
pub(crate) struct Selected<'a, 's, 'p> {
    package: &'a Package,
    feed_forward: &'a mut FeedForward,
    contributions: &'a Contributions,
    scorer: &'a mut Scorer<'s, 'p>,
    order: Order,
    /// Groups of each row and layer that are left out.
    lost: usize,
    /// The residual stream one round earlier, `[rows, width]`.
    earlier: Vec<f32>,
    activations: Vec<f32>,
    norms: Vec<f32>,
}

impl<'a, 's, 'p> Selected<'a, 's, 'p> {
    pub(crate) fn new(
        package: &'a Package,
        feed_forward: &'a mut FeedForward,
        contributions: &'a Contributions,
        scorer: &'a mut Scorer<'s, 'p>,
        order: Order,
        lost: usize,
    ) -> Self {
        Self {
            package,
            feed_forward,
            contributions,
            scorer,
            order,
            lost,
            earlier: Vec::new(),
            activations: Vec::new(),
            norms: Vec::new(),
        }
    }

    /// Zeroes the activations of the groups that are left out, row by row.
    fn leave_out(&mut self, layer: usize) -> Result<(), EvalError> {
        let (groups, size) = (self.package.groups(), self.package.group_size());
        self.contributions
            .norms(layer, &self.activations, &mut self.norms);
        let mut scores = Vec::new();
        let mut ranked: Vec<usize> = Vec::new();
        let rows = self.activations.chunks_exact_mut(groups * size);
        let seen = self
            .norms
            .chunks_exact(groups)
            .zip(self.earlier.chunks_exact(self.package.shape().width));
        for (activations, (norms, earlier)) in rows.zip(seen) {
            self.scorer
                .score(self.order, layer, norms, earlier, &mut scores)?;
            ranked.clear();
            ranked.extend(0..groups);
            ranked.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
            for group in &ranked[..self.lost.min(groups)] {
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

impl FeedForwardSource for Selected<'_, '_, '_> {
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
        if self.lost > 0 {
            self.leave_out(layer)?;
            self.project(layer, sum);
        }
        self.earlier.copy_from_slice(hidden);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use halo_engine::{Backbone, Engine, EngineOptions, KvCache};

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
        let mut feed_forward = FeedForward::load_all(&engine, &package).unwrap();
        let contributions = Contributions::new(&package);
        let mut scorer = Scorer::new(&mean, &mut no_prediction);
        let mut selected = Selected::new(
            &package,
            &mut feed_forward,
            &contributions,
            &mut scorer,
            Order::Mean,
            groups - kept.len(),
        );
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
