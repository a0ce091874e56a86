/// How many groups of a layer are left out when probes are compared: a quarter.
pub(crate) fn lost(groups: usize) -> usize {
    (groups + 2) / 4
}

/// The share of a row's squared norms that is kept when the `lost` groups with the lowest scores are left out; of equal scores
/// the first go. `None` if the row has no contribution at all.
pub(crate) fn kept_share(
    scores: impl IntoIterator<Item = f64>,
    norms: &[f32],
    lost: usize,
    order: &mut Vec<(f64, f64)>,
) -> Option<f64> {
    order.clear();
    let squares = norms.iter().map(|norm| f64::from(*norm).powi(2));
    order.extend(scores.into_iter().zip(squares));
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let sum = |part: &[(f64, f64)]| part.iter().map(|(_, square)| square).sum::<f64>();
    let total = sum(order);
    (total > 0.0).then(|| sum(&order[lost..]) / total)
}

/// Shares kept by several ways to score, summed up over rows.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) tokens: usize,
    rows: usize,
    oracle: f64,
    static_mean: f64,
    /// By candidate.
    probes: Vec<f64>,
}

impl Kept {
    /// Nothing seen of `candidates` probes.
    pub(crate) fn new(candidates: usize) -> Self {
        Self {
            tokens: 0,
            rows: 0,
            oracle: 0.0,
            static_mean: 0.0,
            probes: vec![0.0; candidates],
        }
    }

    /// Takes in rows of one layer: `norms` `[rows, groups]` row-major, the static scores, and each probe's scores
    /// `[rows, groups]`.
    pub(crate) fn add(&mut self, norms: &[f32], static_mean: &[f64], probes: &[Vec<f64>]) {
        let groups = static_mean.len();
        let (lost, order) = (lost(groups), &mut Vec::with_capacity(groups));
        for (row, norms) in norms.chunks_exact(groups).enumerate() {
            let own = norms.iter().map(|norm| f64::from(*norm));
            let Some(oracle) = kept_share(own, norms, lost, order) else {
                continue;
            };
            self.rows += 1;
            self.oracle += oracle;
            let mut share = |scores: &[f64]| {
                kept_share(scores.iter().copied(), norms, lost, order).unwrap_or_default()
            };
            self.static_mean += share(static_mean);
            for (sum, scores) in self.probes.iter_mut().zip(probes) {
                *sum += share(&scores[row * groups..(row + 1) * groups]);
            }
        }
    }

    /// Adds what was seen elsewhere.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.rows += other.rows;
        self.oracle += other.oracle;
        self.static_mean += other.static_mean;
        let pairs = self.probes.iter_mut().zip(&other.probes);
        pairs.for_each(|(sum, other)| *sum += other);
    }

    /// Mean share kept by the oracle.
    pub(crate) fn oracle(&self) -> f64 {
        self.oracle / self.rows.max(1) as f64
    }

    /// Mean share kept by mean importance.
    pub(crate) fn static_mean(&self) -> f64 {
        self.static_mean / self.rows.max(1) as f64
    }

    /// Mean share kept by a candidate.
    pub(crate) fn probe(&self, candidate: usize) -> f64 {
        self.probes[candidate] / self.rows.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_quarter_is_left_out() {
        let norms = [1.0, 2.0, 3.0, 4.0];
        let kept = |scores: [f64; 4]| kept_share(scores, &norms, 1, &mut Vec::new()).unwrap();
        assert_eq!(kept([1.0, 2.0, 3.0, 4.0]), 29.0 / 30.0);
        assert_eq!(kept([4.0, 3.0, 2.0, 1.0]), 14.0 / 30.0);
        assert_eq!(kept([7.0, 7.0, 7.0, 7.0]), 29.0 / 30.0);
        assert_eq!(kept_share([1.0; 4], &[0.0; 4], 1, &mut Vec::new()), None);
        assert_eq!([1, 4, 5, 6, 24].map(lost), [0, 1, 1, 2, 6]);
    }

    #[test]
    fn sums_are_means_over_rows_with_a_contribution() {
        let mut kept = Kept::new(1);
        let norms = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0];
        kept.add(
            &norms,
            &[4.0, 3.0, 2.0, 1.0],
            &[vec![0.0, 9.0, 8.0, 7.0, 0.0, 0.0, 0.0, 0.0]],
        );
        assert_eq!(kept.static_mean(), 14.0 / 30.0);
        assert_eq!(kept.oracle(), 29.0 / 30.0);
        let mut both = Kept::new(1);
        both.merge(&kept);
        both.add(
            &norms[..4],
            &[1.0, 2.0, 3.0, 4.0],
            &[vec![9.0, 8.0, 7.0, 0.0]],
        );
        assert_eq!(both.static_mean(), (14.0 / 30.0 + 29.0 / 30.0) / 2.0);
        assert_eq!(both.probe(0), (29.0 / 30.0 + 14.0 / 30.0) / 2.0);
    }
}
