//! `cargo xtask test`: all tests, after what they need.

use std::env;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, Workspace};
use crate::compiler::Compiler;
use crate::emulation;
use crate::evidence;
use crate::guide;
use crate::lab;
use crate::policies::{self, Checked};
use crate::setup;
use crate::summary::{Done, Summary};
use crate::sysroot::{self, Std, WASM};

/// Set up, check the committed policies, and run every test.
///
/// The policies are compiled again and compared with the committed ones where a WebAssembly toolchain can be had; where it
/// cannot, the closing summary says so, and under CI=true that is a failure. With a filter they are left alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains one of these.
    filter: Vec<String>,

    /// Instead run tests on emulated Raspberry Pis, of clusters of them and of a cluster that has one.
    ///
    /// Builds for ARM first, as `cargo xtask cross aarch64` does, and downloads qemu from Debian if there is none.
    #[arg(long, conflicts_with = "filter")]
    aarch64: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut summary = Summary::default();
    if args.aarch64 {
        emulation::steps(&mut summary);
    } else {
        steps(&mut summary, &args.filter);
    }
    summary.finish()
}

/// Runs everything that `cargo xtask test` runs, as steps of `summary`.
pub(crate) fn steps(summary: &mut Summary, filter: &[String]) {
    summary.run("set-up", || {
        setup::ready(setup::Args::default()).map(|_| Done::Passed)
    });
    summary.run("lab", can_make_a_lab);
    if filter.is_empty() {
        summary.run("policies as committed", || with_std(check_policies));
    }
    summary.run("tests", || tests(Workspace::Host, filter));
    summary.run("tests of the policies", || {
        tests(Workspace::Plugins, filter)
    });
    if filter.is_empty() {
        summary.run("evidence, as little as there can be", evidence::trial);
        summary.run("the guide to writing a policy", || with_std(guide::follow));
    }
}

/// Says whether the tests in the lab will run.
fn can_make_a_lab() -> Result<Done> {
    let provided = if in_ci() { lab::provide() } else { Ok(()) };
    Ok(match provided.and_then(|()| lab::ready()) {
        Ok(()) => Done::Passed,
        Err(error) => Done::Skipped(format!("{error:#}")),
    })
}

/// Compiles the policies again and compares them with the committed ones.
fn check_policies(compiler: &Compiler, std: &Std) -> Result<Done> {
    Ok(match policies::check(compiler, std)? {
        Checked::Same => Done::Passed,
        Checked::OtherTools(words) => Done::Skipped(words),
    })
}

/// A step that compiles policies; left out where that cannot be had, unless nobody is there to read so.
fn with_std(step: impl FnOnce(&Compiler, &Std) -> Result<Done>) -> Result<Done> {
    let toolchain =
        Compiler::find().and_then(|compiler| Ok((sysroot::provide(&compiler, &WASM)?, compiler)));
    match toolchain {
        Ok((std, compiler)) => step(&compiler, &std),
        Err(error) if in_ci() => Err(error),
        Err(error) => Ok(Done::Skipped(format!("{error:#}"))),
    }
}

/// Whether nobody is there to read that something was skipped.
fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

/// Most failures that can be an accident: one test in hundreds meets a machine that stands still for a second, not several.
const ACCIDENTS: usize = 2;

/// Runs the tests, and what fails once more by itself. The tests use real networks, clocks and processes; one that fails once in a
/// thousand runs is named in the summary but is no reason to stop.
fn tests(workspace: Workspace, filter: &[String]) -> Result<Done> {
    let (counts, result) = cargo::test(workspace, filter);
    let mut note = format!("{} passed", counts.passed);
    if counts.ignored > 0 {
        note += &format!(", {} left out", counts.ignored);
    }
    let failed = counts.failed;
    if (1..=ACCIDENTS).contains(&failed.len()) {
        let again = [&["--exact".to_owned()], &failed[..]].concat();
        let (second, result) = cargo::test(workspace, &again);
        let names = failed.join(", ");
        result.with_context(|| format!("{note}, and these failed: {names}"))?;
        ensure!(
            second.passed >= failed.len() as u64,
            "{names}: not found again"
        );
        return Ok(Done::Noted(format!("{note}, and {names} the second time")));
    }
    if !failed.is_empty() {
        bail!("{note}, {} failed", failed.len());
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
