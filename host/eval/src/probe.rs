use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::statistics::Moments;

/// Iterations for the eigenvalues; many times what any matrix has needed.
const ITERATIONS: usize = 10_000;

/// A low-rank linear map from features to the logarithms of the groups' norms: `bias + up · (down · x)`.
///
/// The directions are in order of how much of the logarithms they explain, so the first `r` of them are the best probe of
/// rank `r`.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// `[rank, width]`.
    pub(crate) down: DMatrix<f64>,
    /// `[groups, rank]`.
    pub(crate) up: DMatrix<f64>,
    /// Value of each group where all features are at their mean.
    centre: DVector<f64>,
    /// Mean of the features.
    mean_x: DVector<f64>,
}

impl Probe {
    /// Reduced-rank ridge regression in closed form.
    ///
    /// The ridge solution is `C = A⁻¹ B`, with `A` the features' covariance plus `ridge` times their mean variance on the
    /// diagonal, and `B` their covariance with the logarithms. Of all maps of rank `r` the nearest to it, in the metric of
    /// `A`, is `C V Vᵀ`, where the columns of `V` are the first `r` eigenvectors of `Bᵀ A⁻¹ B`: the covariance of what `C`
    /// predicts. So `down = (C V)ᵀ` and `up = V`.
    ///
    /// `None` if a decomposition fails, which numbers of extreme size make it do.
    pub(crate) fn fit(moments: &Moments, ridge: f64, rank: usize) -> Option<Self> {
        let Moments {
            mean_x,
            mean_y,
            cov_xx,
            cov_xy,
        } = moments;
        let variance = cov_xx.trace() / mean_x.len() as f64;
        let mut a = cov_xx.clone();
        for i in 0..a.nrows() {
            // Features that never vary must not make it singular.
            a[(i, i)] += (ridge * variance).max(1e-12);
        }
        let c = a.cholesky()?.solve(cov_xy);
        let explained = cov_xy.transpose() * &c;
        if !explained.iter().all(|value| value.is_finite()) {
            return None;
        }
        let symmetric = (&explained + explained.transpose()) / 2.0;
        let eigen = SymmetricEigen::try_new(symmetric, f64::EPSILON, ITERATIONS)?;
        let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
        order.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]));
        order.truncate(rank);
        let up = eigen.eigenvectors.select_columns(&order);
        Some(Self {
            down: (c * &up).transpose(),
            up,
            centre: mean_y.clone(),
            mean_x: mean_x.clone(),
        })
    }

    /// The value of each group where all features are zero, for the first `rank` directions.
    pub(crate) fn bias(&self, rank: usize) -> DVector<f64> {
        let inner = self.down.rows(0, rank) * &self.mean_x;
        &self.centre - self.up.columns(0, rank) * inner
    }

    /// Logarithms of all groups' norms, `[groups, rows]`, for features `[width, rows]`, by the first `rank` directions.
    pub(crate) fn predict(&self, features: &DMatrix<f64>, rank: usize) -> DMatrix<f64> {
        let inner = self.down.rows(0, rank) * features;
        let mut logs = self.up.columns(0, rank) * inner;
        let bias = self.bias(rank);
        for mut row in logs.column_iter_mut() {
            row += &bias;
        }
        logs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{Statistics, features};

    const WIDTH: usize = 12;
    const GROUPS: usize = 7;
    const ROWS: usize = 400;
    /// Rows come in two parts, as documents do.
    const PART: usize = 150;

    /// Numbers in -1 to 1 without pattern, the same each time.
    fn noise() -> impl FnMut() -> f64 {
        let mut state = 5u64;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        }
    }

    /// Rows whose logarithms are a linear map of rank 2 of their features, plus `error` times noise.
    struct Planted {
        hidden: Vec<f32>,
        map: DMatrix<f64>,
        bias: DVector<f64>,
        logs: DMatrix<f64>,
    }

    impl Planted {
        fn new(error: f64) -> Self {
            let mut next = noise();
            let mut random = |rows, columns| DMatrix::from_fn(rows, columns, |_, _| next());
            // Norms within a few orders of magnitude, so that none is raised to the floor.
            let map = random(GROUPS, 2) * random(2, WIDTH) * 0.2;
            let bias = random(GROUPS, 1).column(0).into_owned();
            // The features' mean is not zero, and their sizes differ.
            let hidden: Vec<f32> = random(WIDTH, ROWS)
                .iter()
                .enumerate()
                .map(|(i, value)| (value * (1.0 + (i % WIDTH) as f64) + 0.4) as f32)
                .collect();
            let mut logs = &map * features(&hidden, WIDTH) + random(GROUPS, ROWS) * error;
            logs.column_iter_mut().for_each(|mut row| row += &bias);
            Self {
                hidden,
                map,
                bias,
                logs,
            }
        }

        fn moments(&self) -> Moments {
            let norms: Vec<f32> = self.logs.iter().map(|log| log.exp() as f32).collect();
            let mut statistics = Statistics::new(WIDTH, GROUPS);
            let hidden = self.hidden.chunks(PART * WIDTH);
            for (hidden, norms) in hidden.zip(norms.chunks(PART * GROUPS)) {
                statistics.add(&features(hidden, WIDTH), norms);
            }
            statistics.moments().unwrap()
        }

        /// Mean square of what a probe gets wrong.
        fn error(&self, probe: &Probe, rank: usize) -> f64 {
            let wrong = probe.predict(&features(&self.hidden, WIDTH), rank) - &self.logs;
            wrong.norm_squared() / wrong.len() as f64
        }
    }

    #[test]
    fn a_planted_map_of_rank_2_is_recovered() {
        let planted = Planted::new(0.0);
        let probe = Probe::fit(&planted.moments(), 1e-9, GROUPS).unwrap();
        let map = probe.up.columns(0, 2) * probe.down.rows(0, 2);
        assert!((map - &planted.map).amax() < 1e-4);
        assert!((probe.bias(2) - &planted.bias).amax() < 1e-4);
        assert!(planted.error(&probe, 2) < 1e-9);
        // One direction is not enough, and the others have nothing to add.
        assert!(planted.error(&probe, 1) > 1e-3);
        assert!(planted.error(&probe, GROUPS) < 1e-9);
    }

    #[test]
    fn in_full_rank_it_is_ridge_regression() {
        let planted = Planted::new(0.5);
        let (moments, ridge) = (planted.moments(), 0.05);
        let probe = Probe::fit(&moments, ridge, GROUPS).unwrap();
        let lambda = ridge * moments.cov_xx.trace() / WIDTH as f64;
        let a = &moments.cov_xx + DMatrix::identity(WIDTH, WIDTH) * lambda;
        let expected = a.lu().solve(&moments.cov_xy).unwrap().transpose();
        assert!((&probe.up * &probe.down - expected).amax() < 1e-9);
    }

    #[test]
    fn each_direction_explains_more_of_noisy_data() {
        let planted = Planted::new(0.5);
        let probe = Probe::fit(&planted.moments(), 1e-9, GROUPS).unwrap();
        let errors: Vec<f64> = (0..=GROUPS)
            .map(|rank| planted.error(&probe, rank))
            .collect();
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
        // And more ridge fits what was seen less closely.
        let stiff = Probe::fit(&planted.moments(), 1.0, GROUPS).unwrap();
        assert!(planted.error(&stiff, GROUPS) > errors[GROUPS]);
    }

    #[test]
    fn features_that_never_vary_give_the_mean() {
        let mut planted = Planted::new(0.5);
        planted.hidden.fill(1.0);
        let moments = planted.moments();
        let probe = Probe::fit(&moments, 1e-3, GROUPS).unwrap();
        let logs = probe.predict(&features(&planted.hidden, WIDTH), GROUPS);
        for row in logs.column_iter() {
            assert!((row - &moments.mean_y).amax() < 1e-6);
        }
    }
}
