use serde::{Deserialize, Serialize};

/// A figure, and between what it is with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The figure.
    pub mean: f64,
    /// It is hardly lower.
    pub low: f64,
    /// It is hardly higher.
    pub high: f64,
}

/// Student's t at 97.5 %, by degrees of freedom from 1.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

impl Interval {
    /// The mean of what independent runs gave. One run by itself says nothing of how far others are from it, so its interval
    /// is just that value. `None` of no runs.
    #[must_use]
    pub fn of_runs(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let freedom = values.len().checked_sub(1)?;
        let mean = values.iter().sum::<f64>() / n;
        let half = freedom.checked_sub(1).map_or(0.0, |index| {
            let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
            let student = STUDENT.get(index).copied().unwrap_or(1.96);
            student * (squares / freedom as f64 / n).sqrt()
        });
        Some(Self {
            mean,
            low: mean - half,
            high: mean + half,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_give_students_interval() {
        assert_eq!(Interval::of_runs(&[]), None);
        let one = Interval::of_runs(&[3.0]).unwrap();
        assert_eq!((one.mean, one.low, one.high), (3.0, 3.0, 3.0));
        // Standard deviation 1, so half is 4.303 / sqrt(3).
        let three = Interval::of_runs(&[1.0, 2.0, 3.0]).unwrap();
        assert!((three.mean - 2.0).abs() < 1e-12);
        assert!((three.high - 4.4844).abs() < 1e-3 && (three.low + 0.4844).abs() < 1e-3);
    }
}
