//! Hosts that compute more slowly than this machine, side by side on its cores.
//!
//! Each is run with `--slowdown`. A bound on its time on a core would not do: what is over before the bound is reached, as a part of a
//! round is, is done at full speed.

use std::thread;

use anyhow::{Context, Result, ensure};

use super::cgroup::Limit;
use super::condition::Condition as _;
use super::network::Lab;

/// What computing may take of a core. The rest is for what the hosts send one another.
const FOR_COMPUTING: f64 = 0.75;

/// How fast each host is, and on which core it runs.
#[derive(Debug)]
pub(super) struct Slower {
    /// Of a core's speed, by host.
    shares: Vec<f64>,
    cores: Vec<usize>,
}

impl Slower {
    /// Hosts that are as fast as these shares of a core, or, where this machine has too few cores, as fast as they can be with the same
    /// ratios.
    pub(super) fn fit(shares: &[f64]) -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (shares, cores) = fit(shares, cores)
            .context("so small a share of so few cores cannot be given; ask for fewer hosts")?;
        // More slowly than a thousandth `halo` does not compute. Nor is a share that is not a number one.
        for share in &shares {
            ensure!(
                (0.001..=1.0).contains(share),
                "{share} is no share of a core's speed, which is from 0.001 to 1"
            );
        }
        Ok(Self { shares, cores })
    }

    /// What each host has of a core's speed.
    pub(super) fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Puts each host on its core.
    pub(super) fn place(&self, lab: &Lab) -> Result<()> {
        let mut hosts = lab.hosts().iter().zip(&self.cores);
        hosts.try_for_each(|(host, core)| Limit::Cores(core.to_string()).set(host))
    }

    /// Options of `halo` on a host.
    pub(super) fn options(&self, host: u8) -> Vec<String> {
        let share = self.shares.get(usize::from(host).saturating_sub(1));
        let options = share.map(|share| ["--slowdown".into(), format!("{:.3}", share.recip())]);
        options.into_iter().flatten().collect()
    }
}

/// The shares, as large as they fit on so many cores, and the core of each.
fn fit(shares: &[f64], cores: usize) -> Option<(Vec<f64>, Vec<usize>)> {
    let percents = (10..=100).rev().map(|percent| f64::from(percent) / 100.0);
    percents
        .map(|whole| shares.iter().map(|share| share * whole).collect())
        .find_map(|shares: Vec<f64>| Some((shares.clone(), places(&shares, cores)?)))
}

/// A core for each share: the largest first, each where most is left.
fn places(shares: &[f64], cores: usize) -> Option<Vec<usize>> {
    let mut left = vec![FOR_COMPUTING; cores];
    let mut places = vec![0; shares.len()];
    let mut largest_first: Vec<usize> = (0..shares.len()).collect();
    largest_first.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]));
    for host in largest_first {
        let core = (0..cores).max_by(|&a, &b| left[a].total_cmp(&left[b]))?;
        left[core] -= shares[host];
        places[host] = core;
        if left[core] < -1e-9 {
            return None;
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_until_they_fit() {
        let near = |shares: &[f64], expected: &[f64]| {
            assert!(
                shares.len() == expected.len()
                    && shares
                        .iter()
                        .zip(expected)
                        .all(|(a, b)| (a - b).abs() < 1e-9),
                "{shares:?}"
            );
        };
        let (shares, places) = fit(&[1.0, 0.5, 0.5, 0.25], 4).unwrap();
        near(&shares, &[0.75, 0.375, 0.375, 0.1875]);
        assert_eq!(places.len(), 4);
        let (shares, places) = fit(&[1.0, 0.5, 0.5, 0.25], 2).unwrap();
        near(&shares, &[0.6, 0.3, 0.3, 0.15]);
        assert_eq!(places[1], places[2]);
        assert_ne!(places[0], places[1]);
        assert_eq!(fit(&[1.0; 30], 1), None);
    }

    #[test]
    fn hosts_are_told_how_slow_they_are() {
        let slower = Slower {
            shares: vec![0.75, 0.25],
            cores: vec![0, 1],
        };
        assert_eq!(slower.options(1), ["--slowdown", "1.333"]);
        assert_eq!(slower.options(2), ["--slowdown", "4.000"]);
        assert!(slower.options(3).is_empty());
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for share in [0.0, -0.5, f64::NAN] {
            let error = Slower::fit(&[1.0, share]).unwrap_err();
            assert!(error.to_string().contains("no share"), "{error}");
        }
    }
}
