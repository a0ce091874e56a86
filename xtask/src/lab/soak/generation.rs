//! One generation, with when each of its tokens came.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::schedule::Kind;

/// What is continued.
const PROMPT: &str = "Once upon a time";

/// How long nothing may come, loading and finding workers included.
const HANG: Duration = Duration::from_secs(120);

/// How a generation is synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Strict,
    Relaxed,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

/// A generation under way, or that has ended.
pub(super) struct Generation {
    child: Child,
    lines: Receiver<(Instant, String)>,
    last: Instant,
    expected: usize,
    tokens: Vec<(Instant, u32)>,
    /// What happened to workers, and when.
    pub(super) disturbances: Vec<(Instant, Kind)>,
    done: Option<Done>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Ready {},
    Token { index: usize, id: u32 },
    Done(Done),
}

#[derive(Debug, Deserialize)]
struct Done {
    tokens: Vec<u32>,
    concealed: f64,
    counts: Counts,
}

#[derive(Debug, Deserialize)]
struct Counts {
    new_placements: u64,
}

impl Drop for Generation {
    fn drop(&mut self) {
        // It has ended by itself unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Generation {
    /// Starts `halo run`.
    pub(super) fn start(mut leader: Command, tokens: usize) -> Result<Self> {
        leader.args(["--json", "--ignore-eos", "--max-tokens"]);
        leader.args([&tokens.to_string(), PROMPT]);
        let child = leader.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.context("cannot run `sh`")?;
        let stdout = child.stdout.take().context("`halo run` has no output")?;
        let (sender, lines) = mpsc::channel();
        // It ends with the process whose output it reads.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            last: Instant::now(),
            expected: tokens,
            tokens: Vec::new(),
            disturbances: Vec::new(),
            done: None,
        })
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Takes what it says until then. False once it has ended.
    pub(super) fn next(&mut self, until: Instant) -> Result<bool> {
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(wait) {
                Ok((at, line)) => self.take(at, &line)?,
                Err(RecvTimeoutError::Timeout) => {
                    ensure!(
                        self.last.elapsed() < HANG,
                        "nothing came for {} s, after {} tokens",
                        HANG.as_secs(),
                        self.tokens.len()
                    );
                    return Ok(true);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    ensure!(
                        status.success() && self.done.is_some(),
                        "`halo run` failed after {} tokens ({status})",
                        self.tokens.len()
                    );
                    return Ok(false);
                }
            }
        }
    }

    fn take(&mut self, at: Instant, line: &str) -> Result<()> {
        self.last = at;
        let event = serde_json::from_str(line)
            .with_context(|| format!("`halo run --json` printed `{line}`"))?;
        match event {
            Event::Ready {} => {}
            Event::Token { index, id } => {
                ensure!(
                    index == self.tokens.len(),
                    "token {index} came after {} others",
                    self.tokens.len()
                );
                self.tokens.push((at, id));
            }
            Event::Done(done) => self.done = Some(done),
        }
        Ok(())
    }

    /// Notes that something has happened.
    pub(super) fn disturbed(&mut self, kind: Kind) {
        self.disturbances.push((Instant::now(), kind));
    }

    /// When its tokens came.
    pub(super) fn times(&self) -> impl Iterator<Item = Instant> {
        self.tokens.iter().map(|(at, _)| *at)
    }

    /// Its tokens, which must be as many as were asked for and the same in the report.
    pub(super) fn tokens(&self) -> Result<Vec<u32>> {
        let tokens: Vec<u32> = self.tokens.iter().map(|(_, id)| *id).collect();
        let told = &self.done()?.tokens;
        if tokens != *told || tokens.len() != self.expected {
            bail!(
                "{} tokens came and {} were told of, instead of {}",
                tokens.len(),
                told.len(),
                self.expected
            );
        }
        Ok(tokens)
    }

    pub(super) fn new_placements(&self) -> Result<u64> {
        Ok(self.done()?.counts.new_placements)
    }

    /// Share of predicted contribution concealed, averaged over the tokens.
    pub(super) fn concealed(&self) -> f64 {
        self.done.as_ref().map_or(0.0, |done| done.concealed)
    }

    fn done(&self) -> Result<&Done> {
        self.done.as_ref().context("the generation has not ended")
    }
}
