//! `cargo xtask demo`: everything that `halo demo` needs, and then that.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, paths, setup};

/// Set up, build, and tell a story on four nodes over a network that loses packets.
///
/// Runs `halo demo` with the model of this repository. Further arguments go to it: `cargo xtask demo -- --help` lists them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Passed on to `halo demo`.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    passed: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ready(setup::Args::default())?;
    let halo = cargo::build("halo")?;
    let mut command = Command::new(&halo);
    command.arg("demo");
    if !args
        .passed
        .iter()
        .any(|arg| arg == "--model" || arg.starts_with("--model="))
    {
        command
            .arg("--model")
            .arg(paths::root().join("models/tiny"));
    }
    // In place of this process, so that Ctrl-C and the exit code are its own.
    let error = command.args(args.passed).exec();
    Err(error).with_context(|| format!("cannot run {}", halo.display()))
}
