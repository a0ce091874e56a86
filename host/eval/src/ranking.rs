use serde::Serialize;

use crate::EvalError;
use crate::kept::kept_share;
use crate::observe::Observation;
use crate::order::{Order, Scorer};

/// A figure of each layer, and their mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ByLayer {
    /// Layer by layer.
    pub layers: Vec<f64>,
    /// Over all layers.
    pub overall: f64,
}

impl ByLayer {
    fn new(layers: Vec<f64>) -> Self {
        let overall = layers.iter().sum::<f64>() / layers.len().max(1) as f64;
        Self { layers, overall }
    }
}

/// What scores tell of contributions, by each order, summed up over rows.
pub(crate) struct Rankings {
    /// How many groups are left out, each in its turn.
    lost: Vec<usize>,
    layers: Vec<Layer>,
}

#[derive(Clone)]
struct Layer {
    rows: usize,
    /// By order.
    sums: [Sums; Order::ALL.len()],
}

#[derive(Clone)]
struct Sums {
    correlation: f64,
    /// By how many are left out.
    kept: Vec<f64>,
}

impl Rankings {
    pub(crate) fn new(layers: usize, lost: &[usize]) -> Self {
        let sums = Sums {
            correlation: 0.0,
            kept: vec![0.0; lost.len()],
        };
        let layer = Layer {
            rows: 0,
            sums: std::array::from_fn(|_| sums.clone()),
        };
        Self {
            lost: lost.to_vec(),
            layers: vec![layer; layers],
        }
    }

    /// Takes in what was seen of a layer. Rows without any contribution do not count.
    pub(crate) fn add(
        &mut self,
        seen: Observation<'_>,
        groups: usize,
        scorer: &mut Scorer<'_, '_>,
    ) -> Result<(), EvalError> {
        let layer = &mut self.layers[seen.layer];
        let width = seen.earlier.len() / (seen.norms.len() / groups).max(1);
        let rows = seen.norms.chunks_exact(groups);
        let (mut scores, mut sorted) = (Vec::new(), Vec::new());
        for (norms, earlier) in rows.zip(seen.earlier.chunks_exact(width)) {
            if norms.iter().all(|norm| *norm == 0.0) {
                continue;
            }
            layer.rows += 1;
            for (order, sums) in Order::ALL.into_iter().zip(&mut layer.sums) {
                scorer.score(order, seen.layer, norms, earlier, &mut scores)?;
                sums.correlation += correlation(&scores, norms);
                for (sum, lost) in sums.kept.iter_mut().zip(&self.lost) {
                    let scores = scores.iter().copied().map(f64::from);
                    *sum += kept_share(scores, norms, *lost, &mut sorted).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    /// Mean rank correlation of `order`'s scores and the norms.
    pub(crate) fn correlation(&self, order: Order) -> ByLayer {
        self.mean(order, |sums| sums.correlation)
    }

    /// Mean share of the squared contribution that is kept without so many as the `index`-th of `lost`.
    pub(crate) fn kept(&self, order: Order, index: usize) -> ByLayer {
        self.mean(order, |sums| sums.kept[index])
    }

    fn mean(&self, order: Order, sum: impl Fn(&Sums) -> f64) -> ByLayer {
        let mean = |layer: &Layer| sum(&layer.sums[order as usize]) / layer.rows.max(1) as f64;
        ByLayer::new(self.layers.iter().map(mean).collect())
    }
}

/// Spearman's rank correlation; 0 if either does not vary.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let size = (product(&a, &a) * product(&b, &b)).sqrt();
    if size > 0.0 {
        product(&a, &b) / size
    } else {
        0.0
    }
}

/// The rank of each value, from 0; equal values share the mean of theirs.
fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&i, &j| values[i] == values[j]) {
        let rank = first as f64 + (equal.len() as f64 - 1.0) / 2.0;
        equal.iter().for_each(|&index| ranks[index] = rank);
        first += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_is_of_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 9.0]), [1.5, 0.0, 1.5, 3.0]);
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[0.1, 7.0, 7e6]), 1.0);
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        assert_eq!(correlation(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]), 0.5);
        assert_eq!(correlation(&[5.0; 3], &[3.0, 2.0, 1.0]), 0.0);
    }

    #[test]
    fn figures_are_means_over_rows_with_a_contribution_and_over_layers() {
        let mut predict = |_: usize, earlier: &[f32], scores: &mut Vec<f32>| {
            scores.extend(earlier);
            Ok(())
        };
        let mut scorer = Scorer::new(&[4.0, 3.0, 2.0, 1.0, 2.0, 1.0, 0.0, 3.0], &mut predict);
        let mut rankings = Rankings::new(2, &[1, 4]);
        let norms = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0];
        let earlier = [0.0, 1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 9.0];
        for layer in 0..2 {
            let seen = Observation {
                layer,
                earlier: &earlier,
                norms: &norms,
            };
            rankings.add(seen, 4, &mut scorer).unwrap();
        }
        for order in [Order::Oracle, Order::Predicted] {
            assert_eq!(rankings.correlation(order).layers, [1.0, 1.0]);
            assert_eq!(rankings.kept(order, 0).overall, 29.0 / 30.0);
            assert_eq!(rankings.kept(order, 1).overall, 0.0);
        }
        let mean = rankings.kept(Order::Mean, 0);
        assert_eq!(mean.layers, [14.0 / 30.0, 21.0 / 30.0]);
        assert_eq!(mean.overall, (14.0 / 30.0 + 21.0 / 30.0) / 2.0);
        assert_eq!(rankings.correlation(Order::Mean).layers, [-1.0, 0.2]);
    }
}
