//! What processes take of the memory, and whether it grows.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What a process takes in its first seconds says little.
const WARM_UP: f64 = 60.0;

/// Growth over a whole soak that is none: what an allocator keeps for later differs by that much.
const ALLOWED_MB: f64 = 8.0;

/// What each host's processes took, one after the other.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<u8, BTreeMap<u32, Vec<Sample>>>);

/// Seconds since the beginning, and megabytes.
type Sample = (f64, f64);

impl Memory {
    /// Looks at a process.
    pub(super) fn sample(&mut self, host: u8, process: u32, at: Duration) -> Result<()> {
        let path = format!("/proc/{process}/status");
        let status = match fs::read_to_string(&path) {
            Ok(status) => status,
            // It has just ended.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).context(path),
        };
        // Without the mapped weights, which the kernel takes away and gives back as it likes.
        let anonymous = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes =
            anonymous.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        if let Some(kilobytes) = kilobytes {
            let processes = self.0.entry(host).or_default();
            let samples = processes.entry(process).or_default();
            samples.push((at.as_secs_f64(), kilobytes * 1024.0 / 1e6));
        }
        Ok(())
    }

    /// Prints what each host took. Fails if it grew.
    pub(super) fn report(&self) -> Result<()> {
        println!("memory of each host's processes, without mapped weights, in MB");
        let mut grown = Vec::new();
        for (host, processes) in &self.0 {
            let mut points: Vec<Sample> = processes.values().flat_map(|p| points(p)).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (Some((mean, slope)), [first, .., last]) = (line(&points), &points[..]) else {
                continue;
            };
            let most = points.iter().map(|(_, mb)| *mb).fold(0.0, f64::max);
            println!(
                "  host {host}, {} processes: {mean:.1} on average, {most:.1} at most, {:+.2} a minute",
                processes.len(),
                slope * 60.0
            );
            let growth = slope * (last.0 - first.0);
            if growth > ALLOWED_MB {
                grown.push(format!("host {host} by {growth:.1} MB"));
            }
        }
        ensure!(grown.is_empty(), "memory grew: {}", grown.join(", "));
        Ok(())
    }
}

/// What counts of a process: all that it took once it had run for a while or, of one that did not, the most that it took.
fn points(samples: &[Sample]) -> Vec<Sample> {
    let Some((begin, _)) = samples.first() else {
        return Vec::new();
    };
    let settled = samples.iter().filter(|(at, _)| *at >= begin + WARM_UP);
    let settled: Vec<Sample> = settled.copied().collect();
    if settled.is_empty() {
        return samples
            .iter()
            .copied()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .into_iter()
            .collect();
    }
    settled
}

/// The mean and the slope of the line that fits best.
fn line(samples: &[Sample]) -> Option<(f64, f64)> {
    let count = samples.len() as f64;
    if samples.len() < 2 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|s| s.0), mean(|s| s.1));
    let spread: f64 = samples.iter().map(|s| (s.0 - x).powi(2)).sum();
    let both: f64 = samples.iter().map(|s| (s.0 - x) * (s.1 - y)).sum();
    (spread > 0.0).then(|| (y, both / spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_a_slope() {
        assert_eq!(line(&[(0.0, 5.0)]), None);
        assert_eq!(
            line(&[(0.0, 5.0), (2.0, 6.0), (4.0, 7.0)]),
            Some((6.0, 0.5))
        );
        let rises = |mb: f64| {
            let samples = (0..600).map(|s| (f64::from(s), 100.0 + f64::from(s) / 600.0 * mb));
            Memory([(2, [(7, samples.collect())].into())].into()).report()
        };
        rises(1.0).unwrap();
        let error = rises(20.0).unwrap_err().to_string();
        assert!(error.starts_with("memory grew: host 2 by 18.0"), "{error}");
    }

    #[test]
    fn of_processes_that_end_soon_the_most_counts() {
        assert_eq!(points(&[(3.0, 5.0), (4.0, 9.0), (5.0, 8.0)]), [(4.0, 9.0)]);
        assert_eq!(
            points(&[(3.0, 5.0), (62.0, 9.0), (64.0, 8.0)]),
            [(64.0, 8.0)]
        );
        assert_eq!(points(&[]), []);
    }
}
