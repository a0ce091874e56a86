use nalgebra::{DMatrix, DVector};

/// Groups that contribute less than this part of a token's root mean square count as this much, so that a logarithm near
/// nothing does not outweigh what matters.
const FLOOR: f64 = 1e-3;

/// The probe's input: the residual stream of every row over its root mean square, `[width, rows]` column-major, which is
/// `[rows, width]` row-major.
pub(crate) fn features(earlier: &[f32], width: usize) -> DMatrix<f64> {
    let rows = earlier.len() / width;
    let values = earlier.iter().copied().map(f64::from);
    let mut features = DMatrix::from_iterator(width, rows, values);
    for mut row in features.column_iter_mut() {
        row /= (row.norm_squared() / width as f64 + 1e-6).sqrt();
    }
    features
}

/// What one layer's fit needs to know of all rows seen; its size does not depend on how many they were.
///
/// `x` is a row's features, `y` the logarithms of its groups' norms.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    rows: f64,
    sum_x: DVector<f64>,
    sum_y: DVector<f64>,
    /// `Σ x xᵀ`, `[width, width]`.
    sum_xx: DMatrix<f64>,
    /// `Σ x yᵀ`, `[width, groups]`.
    sum_xy: DMatrix<f64>,
    /// Sum over rows of each group's share of the squared norms.
    shares: DVector<f64>,
}

/// Mean and covariance of what was seen.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub(crate) mean_x: DVector<f64>,
    pub(crate) mean_y: DVector<f64>,
    /// `[width, width]`.
    pub(crate) cov_xx: DMatrix<f64>,
    /// `[width, groups]`.
    pub(crate) cov_xy: DMatrix<f64>,
}

impl Statistics {
    /// Nothing seen yet.
    pub(crate) fn new(width: usize, groups: usize) -> Self {
        Self {
            rows: 0.0,
            sum_x: DVector::zeros(width),
            sum_y: DVector::zeros(groups),
            sum_xx: DMatrix::zeros(width, width),
            sum_xy: DMatrix::zeros(width, groups),
            shares: DVector::zeros(groups),
        }
    }

    /// Takes in rows: features `[width, rows]` and the groups' norms, `[rows, groups]` row-major.
    pub(crate) fn add(&mut self, features: &DMatrix<f64>, norms: &[f32]) {
        let (groups, rows) = (self.sum_y.len(), features.ncols());
        let norms = norms.iter().copied().map(f64::from);
        let mut logs = DMatrix::from_iterator(groups, rows, norms);
        for mut row in logs.column_iter_mut() {
            let squares = row.norm_squared();
            if squares > 0.0 {
                self.shares += row.map(|norm| norm * norm / squares);
            }
            let floor = (squares / groups as f64).sqrt() * FLOOR;
            row.apply(|norm| *norm = norm.max(floor).max(f64::from(f32::MIN_POSITIVE)).ln());
        }
        self.rows += rows as f64;
        self.sum_x += features.column_sum();
        self.sum_y += logs.column_sum();
        self.sum_xx.gemm(1.0, features, &features.transpose(), 1.0);
        self.sum_xy.gemm(1.0, features, &logs.transpose(), 1.0);
    }

    /// All that it knows, by name.
    pub(crate) fn sums(&self) -> [(&'static str, &[f64]); 6] {
        [
            ("rows", std::slice::from_ref(&self.rows)),
            ("x", self.sum_x.as_slice()),
            ("y", self.sum_y.as_slice()),
            ("xx", self.sum_xx.as_slice()),
            ("xy", self.sum_xy.as_slice()),
            ("shares", self.shares.as_slice()),
        ]
    }

    /// The same, to be filled in.
    pub(crate) fn sums_mut(&mut self) -> [(&'static str, &mut [f64]); 6] {
        [
            ("rows", std::slice::from_mut(&mut self.rows)),
            ("x", self.sum_x.as_mut_slice()),
            ("y", self.sum_y.as_mut_slice()),
            ("xx", self.sum_xx.as_mut_slice()),
            ("xy", self.sum_xy.as_mut_slice()),
            ("shares", self.shares.as_mut_slice()),
        ]
    }

    /// Each group's importance: the root of its mean share of a row's squared norms. Of all rankings that do not look at the
    /// input, the one by this keeps most of the contribution; and being a root it is in proportion to norms, as scores are.
    pub(crate) fn importance(&self) -> Vec<f64> {
        let rows = self.rows.max(1.0);
        self.shares.iter().map(|sum| (sum / rows).sqrt()).collect()
    }

    /// Mean and covariance. `None` if a number is not finite, or nothing was seen.
    pub(crate) fn moments(&self) -> Option<Moments> {
        if self.rows == 0.0 {
            return None;
        }
        let rows = self.rows;
        let (mean_x, mean_y) = (&self.sum_x / rows, &self.sum_y / rows);
        let mut cov_xx = &self.sum_xx / rows;
        cov_xx.ger(-1.0, &mean_x, &mean_x, 1.0);
        let mut cov_xy = &self.sum_xy / rows;
        cov_xy.ger(-1.0, &mean_x, &mean_y, 1.0);
        let finite = cov_xx.iter().chain(&cov_xy).all(|value| value.is_finite());
        finite.then_some(Moments {
            mean_x,
            mean_y,
            cov_xx,
            cov_xy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_unit_mean_square() {
        let x = features(&[3.0, -4.0, 0.0, 0.0], 2);
        let scale = (12.5f64 + 1e-6).sqrt();
        assert_eq!(
            x,
            DMatrix::from_row_slice(2, 2, &[3.0 / scale, 0.0, -4.0 / scale, 0.0])
        );
    }

    #[test]
    fn importance_is_the_root_of_the_mean_share() {
        let mut statistics = Statistics::new(1, 2);
        // Shares 0.36 and 0.64, whatever the size; then 1 and 0; a row of nothing has none.
        let norms = [3.0, 4.0, 300.0, 400.0, 7.0, 0.0, 0.0, 0.0];
        statistics.add(&features(&[1.0, 2.0, 3.0, 4.0], 1), &norms);
        let expected = [1.72f64, 1.28].map(|sum| (sum / 4.0).sqrt());
        for (importance, expected) in statistics.importance().iter().zip(expected) {
            assert!((importance - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn logarithms_have_a_floor_and_other_numbers_none() {
        let mut statistics = Statistics::new(1, 2);
        statistics.add(&features(&[1.0], 1), &[5.0, 0.0]);
        let moments = statistics.moments().unwrap();
        let floor = (12.5f64.sqrt() * FLOOR).ln();
        assert!((moments.mean_y[0] - 5f64.ln()).abs() < 1e-12);
        assert!((moments.mean_y[1] - floor).abs() < 1e-12);

        assert!(Statistics::new(1, 2).moments().is_none());
        statistics.add(&features(&[f32::NAN], 1), &[1.0, 1.0]);
        assert!(statistics.moments().is_none());
        let mut statistics = Statistics::new(1, 2);
        statistics.add(&features(&[1.0], 1), &[f32::INFINITY, 1.0]);
        assert!(statistics.moments().is_none());
    }
}
