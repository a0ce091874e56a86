//! `halo`: LLaMA-family models across unequal machines and lossy networks.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    halo_cli::main()
}
