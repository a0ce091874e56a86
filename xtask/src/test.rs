//! `cargo xtask test`: all tests, after what they need.

use anyhow::{Result, bail, ensure};

use crate::cargo::{self, Workspace};
use crate::setup;
use crate::summary::{Done, Summary};

/// Set up, check the committed policies, and run every test.
///
/// The policies are compiled again and compared with the committed ones where a WebAssembly toolchain can be had; where it
/// cannot, the closing summary says so, and under CI=true that is a failure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains one of these.
    filter: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut summary = Summary::default();
    steps(&mut summary, &args.filter);
    summary.finish()
}

/// Runs everything that `cargo xtask test` runs, as steps of `summary`.
pub(crate) fn steps(summary: &mut Summary, filter: &[String]) {
    summary.run("set-up", || {
        setup::ready(setup::Args::default()).map(|_| Done::Passed)
    });
    summary.run("tests", || tests(Workspace::Host, filter));
    summary.run("tests of the policies", || {
        tests(Workspace::Plugins, filter)
    });
}

fn tests(workspace: Workspace, filter: &[String]) -> Result<Done> {
    let (counts, result) = cargo::test(workspace, filter);
    let mut note = format!("{} passed", counts.passed);
    if counts.ignored > 0 {
        note += &format!(", {} left out", counts.ignored);
    }
    if counts.failed > 0 {
        bail!("{note}, {} failed", counts.failed);
    }
    result?;
    if counts.passed == 0 {
        ensure!(!filter.is_empty(), "no test ran");
        return Ok(Done::Skipped(format!(
            "no name of a test contains {}",
            filter.join(" or ")
        )));
    }
    Ok(Done::Noted(note))
}
