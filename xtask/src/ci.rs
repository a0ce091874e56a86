//! `cargo xtask ci`: `cargo xtask test`, and what keeps the sources in order.

use anyhow::Result;

use crate::cargo::{self, Workspace};
use crate::summary::{Done, Summary};
use crate::test;

/// Check format, lints and documentation, then do what `cargo xtask test` does.
///
/// This is what CI runs (see .ci/run). All of it compiles in the release profile, so that the dependencies are compiled once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: Args) -> Result<()> {
    let mut summary = Summary::default();
    summary.run("format", || both(format));
    summary.run("lints", || both(lints));
    summary.run("documentation", || both(documentation));
    test::steps(&mut summary, &[]);
    summary.finish()
}

fn both(check: fn(Workspace) -> Result<()>) -> Result<Done> {
    check(Workspace::Host)?;
    check(Workspace::Plugins)?;
    Ok(Done::Passed)
}

fn format(workspace: Workspace) -> Result<()> {
    cargo::run(workspace.cargo("fmt").args(["--all", "--check"]))
}

fn lints(workspace: Workspace) -> Result<()> {
    cargo::run(workspace.cargo("clippy").args([
        "--release",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

fn documentation(workspace: Workspace) -> Result<()> {
    let mut command = workspace.cargo("doc");
    command.args([
        "--release",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    cargo::run(command.env("RUSTDOCFLAGS", "-D warnings"))
}
