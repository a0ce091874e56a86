//! `cargo xtask build`: the `halo` program.

use anyhow::Result;

use crate::{cargo, say};

/// Build `halo`, optimised, and say where it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: Args) -> Result<()> {
    let halo = cargo::build("halo")?;
    say::step("Built", halo.display());
    Ok(())
}
