//! `cargo xtask`: set-up, building, tests and the demo. Everything a shell script would otherwise do.

mod build;
mod cargo;
mod ci;
mod compiler;
mod cross;
mod debian;
mod demo;
#[cfg(test)]
mod docs;
mod emulation;
mod evidence;
mod glibc;
mod guide;
mod lab;
mod onnxruntime;
mod package;
mod paths;
mod peers;
mod pip;
mod policies;
mod qemu;
mod say;
mod setup;
mod summary;
mod sysroot;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, test and show HALO.
///
/// Start with `cargo xtask demo`. Every command does the set-up that it needs by itself.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Args),
    Build(build::Args),
    Cross(cross::Args),
    Package(package::Args),
    Demo(demo::Args),
    Policies(policies::Args),
    Peers(peers::Args),
    Lab(lab::Args),
    Evidence(evidence::Args),
    Test(test::Args),
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(args),
        Command::Build(args) => build::run(args),
        Command::Cross(args) => cross::run(args),
        Command::Package(args) => package::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Policies(args) => policies::run(args),
        Command::Peers(args) => peers::run(args),
        Command::Lab(args) => lab::run(args),
        Command::Evidence(args) => evidence::run(args),
        Command::Test(args) => test::run(args),
        Command::Ci(args) => ci::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&error);
            ExitCode::FAILURE
        }
    }
}
