//! What a long command ran, left out and saw fail, told again at its end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::say;

/// How one step ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// It ran.
    Passed,
    /// It ran, and this is worth saying about it.
    Noted(String),
    /// It did not run, for this reason.
    Skipped(String),
}

#[derive(Debug)]
struct Row {
    name: String,
    result: Result<Done>,
    took: Duration,
}

/// The steps so far. A step that fails does not keep the next from running.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    rows: Vec<Row>,
}

impl Summary {
    /// Runs one step.
    pub(crate) fn run(&mut self, name: impl Into<String>, step: impl FnOnce() -> Result<Done>) {
        let name = name.into();
        say::step("Running", &name);
        let start = Instant::now();
        let result = step();
        if let Err(error) = &result {
            say::failure("Failed", format_args!("{name}: {error:#}"));
        }
        self.rows.push(Row {
            name,
            result,
            took: start.elapsed(),
        });
    }

    /// Prints all steps, and fails if one did.
    pub(crate) fn finish(self) -> Result<()> {
        say::step("Summary", "");
        let mut failed = Vec::new();
        for Row { name, result, took } in self.rows {
            let took = took.as_secs_f64();
            match result {
                Ok(Done::Passed) => say::step("passed", format_args!("{name} ({took:.0} s)")),
                Ok(Done::Noted(note)) => {
                    say::step("passed", format_args!("{name}: {note} ({took:.0} s)"))
                }
                Ok(Done::Skipped(why)) => say::warning("skipped", format_args!("{name}: {why}")),
                Err(error) => {
                    say::failure("failed", format_args!("{name}: {error:#} ({took:.0} s)"));
                    failed.push(name);
                }
            }
        }
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_fails_the_whole_and_stops_nothing() {
        let mut summary = Summary::default();
        summary.run("one", || bail!("broken"));
        summary.run("two", || Ok(Done::Skipped("no reason".to_owned())));
        let mut ran = false;
        summary.run("three", || {
            ran = true;
            Ok(Done::Passed)
        });
        assert!(ran);
        assert_eq!(summary.finish().unwrap_err().to_string(), "failed: one");
    }

    #[test]
    fn a_skipped_step_fails_nothing() {
        let mut summary = Summary::default();
        summary.run("one", || Ok(Done::Skipped("no reason".to_owned())));
        assert!(summary.finish().is_ok());
    }
}
