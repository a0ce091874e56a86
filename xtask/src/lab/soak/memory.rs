//! What processes take of the memory, and whether it grows.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Growth at rest that is none: what an allocator keeps for later differs by that much.
const ALLOWED_MB: f64 = 8.0;

/// What each host's processes took.
///
/// What a worker takes at work says little of whether it grows: it follows how many leaders there have just been, and how many
/// placements each of them made. So what is compared is what it takes when it has forgotten all of them.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By host and process.
    samples: BTreeMap<u8, BTreeMap<u32, Vec<Sample>>>,
    /// The host and the megabytes, whenever nobody had led for a while.
    rests: Vec<(u8, f64)>,
}

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
            let processes = self.samples.entry(host).or_default();
            let samples = processes.entry(process).or_default();
            samples.push((at.as_secs_f64(), kilobytes * 1024.0 / 1e6));
        }
        Ok(())
    }

    /// Nobody has led since then, and for so long that the worker on this host has forgotten whoever did before.
    pub(super) fn rested(&mut self, host: u8, since: Duration) -> Result<()> {
        let samples = self
            .samples
            .get(&host)
            .into_iter()
            .flat_map(BTreeMap::values);
        let least = samples
            .flatten()
            .filter(|(at, _)| *at >= since.as_secs_f64())
            .map(|(_, mb)| *mb)
            .min_by(f64::total_cmp);
        let least = least.with_context(|| format!("there is no worker on host {host}"))?;
        self.rests.push((host, least));
        Ok(())
    }

    /// Prints what each host took. Fails if a worker took more at its last rest than at its first.
    pub(super) fn report(&self) -> Result<()> {
        println!("memory of each host's processes, without mapped weights, in MB");
        for (host, processes) in &self.samples {
            let all = processes.values().flatten().map(|(_, mb)| *mb);
            let count = processes.values().map(Vec::len).sum::<usize>();
            let mean = all.clone().sum::<f64>() / count.max(1) as f64;
            let most = all.fold(0.0, f64::max);
            let processes = processes.len();
            println!(
                "  host {host}, {processes} processes: {mean:.1} on average, {most:.1} at most"
            );
        }
        let [(host, first), .., (_, last)] = &self.rests[..] else {
            return Ok(());
        };
        println!("  host {host} at rest: {first:.1} at first, {last:.1} at the end");
        let growth = last - first;
        ensure!(
            growth <= ALLOWED_MB,
            "memory grew: host {host} by {growth:.1} MB"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rests of half a minute, with work between them.
    fn memory(first: f64, last: f64) -> Memory {
        let take = |second| match second {
            30..60 => first,
            90.. => last,
            _ => 70.0,
        };
        // What was kept for a leader goes in time.
        let samples =
            (0..120).map(|s| (f64::from(s), take(s) + if s % 30 < 20 { 20.0 } else { 0.0 }));
        let mut memory = Memory::default();
        let of_host = memory.samples.entry(4).or_default();
        of_host.insert(7, samples.collect());
        for since in [30, 90] {
            memory.rested(4, Duration::from_secs(since)).unwrap();
        }
        memory
    }

    #[test]
    fn growth_is_what_is_left_at_rest() {
        assert_eq!(memory(20.0, 25.0).rests, [(4, 20.0), (4, 25.0)]);
        memory(20.0, 25.0).report().unwrap();
        memory(25.0, 20.0).report().unwrap();
        let error = memory(20.0, 29.5).report().unwrap_err().to_string();
        assert_eq!(error, "memory grew: host 4 by 9.5 MB");
    }

    #[test]
    fn whoever_is_not_there_cannot_rest() {
        let mut memory = memory(20.0, 25.0);
        assert!(memory.rested(2, Duration::ZERO).is_err());
        assert!(memory.rested(4, Duration::from_secs(200)).is_err());
    }
}
