//! One generation, measured by what `halo run --json` tells of it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

/// What is continued.
const PROMPT: &str = "Once upon a time";

/// How long loading may take, and finding the workers.
const LOADING: Duration = Duration::from_secs(120);

/// How much is generated.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Length {
    /// Tokens to generate in each measurement.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    pub(super) tokens: u32,
    /// Cut a measurement short after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(super) limit: u64,
}

/// A generation, from its first token to its last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Generation {
    /// Each node's share of the neuron groups, the leader's first.
    pub(crate) shares: Vec<(String, f64)>,
    /// When each token came, in seconds.
    pub(crate) seconds: Vec<f64>,
    /// Share of predicted contribution concealed, averaged over the tokens.
    pub(crate) concealed: f64,
    /// Times a worker was asked again. Unknown if it was cut short.
    pub(crate) asked_again: Option<u64>,
}

impl Generation {
    /// Milliseconds a token, on average.
    pub(crate) fn milliseconds(&self) -> Option<f64> {
        let (first, rest) = self.seconds.split_first()?;
        Some((rest.last()? - first) / rest.len() as f64 * 1e3)
    }

    /// Longest time between two tokens, in milliseconds.
    pub(crate) fn longest_pause(&self) -> Option<f64> {
        let pauses = self
            .seconds
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) * 1e3);
        pauses.max_by(f64::total_cmp)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Ready { shares } => self.shares = shares,
            Event::Token { seconds, concealed } => {
                let before = self.seconds.len() as f64;
                self.concealed = (self.concealed * before + concealed) / (before + 1.0);
                self.seconds.push(seconds);
            }
            Event::Done { counts } => self.asked_again = Some(counts.asked_again),
        }
    }
}

/// A line of `halo run --json`.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Ready { shares: Vec<(String, f64)> },
    Token { seconds: f64, concealed: f64 },
    Done { counts: Counts },
}

#[derive(Debug, Deserialize)]
struct Counts {
    asked_again: u64,
}

/// Runs `halo run`, calls `ready` when its cluster is, and ends it when its time is over.
pub(super) fn generation(
    mut leader: Command,
    length: Length,
    ready: impl FnOnce() -> Result<()>,
) -> Result<Generation> {
    leader.args([
        "--json",
        "--ignore-eos",
        "--max-tokens",
        &length.tokens.to_string(),
        PROMPT,
    ]);
    let mut child = leader
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run `sh`")?;
    let (sender, lines) = mpsc::channel();
    let stdout = child.stdout.take().context("`halo run` has no output")?;
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut generation = Generation::default();
    let result = follow(&lines, length, ready, &mut generation);
    let cut_short = matches!(result, Ok(false));
    if !matches!(result, Ok(true)) {
        child.kill()?;
    }
    let status = child.wait()?;
    drop(lines);
    // It ends with the process whose output it reads.
    let _ = reader.join();
    result?;
    if !cut_short && !status.success() {
        bail!("`halo run` failed ({status})");
    }
    Ok(generation)
}

/// Takes in what the leader says. True if it came to an end, false if its time is over.
fn follow(
    lines: &mpsc::Receiver<String>,
    length: Length,
    ready: impl FnOnce() -> Result<()>,
    generation: &mut Generation,
) -> Result<bool> {
    let mut ready = Some(ready);
    let mut end = Instant::now() + LOADING;
    loop {
        let line = match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
        };
        let event = serde_json::from_str(&line)
            .with_context(|| format!("`halo run --json` printed `{line}`"))?;
        generation.take(event);
        // One host alone does not say that it is ready.
        if let Some(ready) = ready.take() {
            end = Instant::now() + Duration::from_secs(length.limit);
            ready()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_halo_run_prints_is_read() {
        let mut generation = Generation::default();
        assert_eq!(generation.milliseconds(), None);
        for line in [
            r#"{"event":"ready","shares":[["a",0.75],["b",0.25]]}"#,
            r#"{"event":"token","index":0,"id":1,"text":"a","concealed":0.0,"seconds":1.0}"#,
            r#"{"event":"token","index":1,"id":1,"text":"a","concealed":0.25,"seconds":1.125}"#,
            r#"{"event":"token","index":2,"id":1,"text":"a","concealed":0.5,"seconds":1.5}"#,
            r#"{"event":"done","counts":{"asked_again":7,"rounds":9}}"#,
        ] {
            generation.take(serde_json::from_str(line).unwrap());
        }
        assert_eq!(generation.shares[0], ("a".into(), 0.75));
        assert_eq!(generation.milliseconds(), Some(250.0));
        assert_eq!(generation.longest_pause(), Some(375.0));
        assert_eq!(generation.concealed, 0.25);
        assert_eq!(generation.asked_again, Some(7));
    }
}
