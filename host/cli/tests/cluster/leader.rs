//! The leader's process and the generation that it streams.

use std::time::Duration;

use halo_runtime::{Report, Token};
use serde::Deserialize;

use crate::process::{Log, Process};

/// What a leader logs when it has waited for a worker until the bound.
pub(crate) const IN_VAIN: &str = "did not answer within the bound";

/// What `halo run --json` prints.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Ready { shares: Vec<(String, f64)> },
    Token(Token),
    Done(Box<Report>),
}

/// A generation under way.
#[derive(Debug)]
pub(crate) struct Leader {
    process: Process,
    /// Each node's share of the neuron groups at the beginning, the leader's first.
    pub(crate) shares: Vec<(String, f64)>,
    tokens: Vec<Token>,
    report: Option<Report>,
}

/// A generation that has ended well.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) shares: Vec<(String, f64)>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) report: Report,
    /// What the leader wrote to its standard error.
    pub(crate) log: Vec<String>,
}

impl Leader {
    /// Follows a leader from its first event on.
    pub(crate) fn follow(mut process: Process) -> Self {
        let shares = match process.next() {
            Some(Event::Ready { shares }) => shares,
            other => panic!("the leader began with {other:?}"),
        };
        Self {
            process,
            shares,
            tokens: Vec::new(),
            report: None,
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.process.log
    }

    /// Takes the next token. Nothing after the last.
    pub(crate) fn token(&mut self) -> Option<&Token> {
        match self.process.next() {
            Some(Event::Token(token)) => {
                assert_eq!(
                    token.index,
                    self.tokens.len(),
                    "tokens come one after the other"
                );
                self.tokens.push(token);
                self.tokens.last()
            }
            Some(Event::Done(report)) => {
                self.report = Some(*report);
                None
            }
            other => panic!("the leader says {other:?} instead of a token"),
        }
    }

    /// Takes tokens until there are so many.
    pub(crate) fn read_to(&mut self, count: usize) {
        while self.tokens.len() < count {
            assert!(
                self.token().is_some(),
                "ended after {} tokens",
                self.tokens.len()
            );
        }
    }

    /// Does something while tokens flow, though not more than until there are `most` of them. The leader is a dozen or so
    /// ahead of that, so there must be more to come for it to stay.
    pub(crate) fn meanwhile<T: Send>(&mut self, most: usize, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let work = scope.spawn(work);
            while !work.is_finished() {
                if self.tokens.len() < most {
                    assert!(
                        self.token().is_some(),
                        "ended after {} tokens",
                        self.tokens.len()
                    );
                }
                // Spreads the tokens over the work.
                std::thread::sleep(Duration::from_millis(10));
            }
            work.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Bytes of memory that the leader takes now.
    pub(crate) fn memory(&self) -> u64 {
        self.process.memory()
    }

    /// Ends the leader at once.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    /// Takes the remaining tokens, and checks that the report at the end is of them.
    pub(crate) fn finish(mut self) -> Generation {
        while self.token().is_some() {}
        let report = self.report.take().expect("a report at the end");
        assert!(
            self.process.next::<serde_json::Value>().is_none(),
            "the report is the last"
        );
        self.process.end();
        let ids: Vec<u32> = self.tokens.iter().map(|t| t.id).collect();
        assert_eq!(report.tokens, ids);
        let mean = self
            .tokens
            .iter()
            .map(|t| f64::from(t.concealed))
            .sum::<f64>()
            / ids.len() as f64;
        assert!(
            (f64::from(report.concealed) - mean).abs() < 1e-5,
            "{} concealed on the whole, {mean} on average",
            report.concealed
        );
        let layers = |by_layer: &[f32]| by_layer.iter().sum::<f32>() / by_layer.len().max(1) as f32;
        for token in &self.tokens {
            assert!((layers(&token.concealed_by_layer) - token.concealed).abs() < 1e-5);
        }
        assert!((layers(&report.concealed_by_layer) - report.concealed).abs() < 1e-5);
        assert!(report.median_pause_seconds <= report.longest_pause_seconds);
        let counts = &report.counts;
        assert_eq!(
            counts.concealed_partials > 0,
            report.concealed > 0.0,
            "{report:?}"
        );
        assert!(counts.concealed_partials <= counts.partials, "{report:?}");
        Generation {
            shares: std::mem::take(&mut self.shares),
            tokens: std::mem::take(&mut self.tokens),
            log: self.process.log.lines(),
            report,
        }
    }
}

impl Generation {
    /// Whether a line of the leader's log contains this.
    pub(crate) fn logged(&self, text: &str) -> bool {
        self.log.iter().any(|line| line.contains(text))
    }
}
