//! `cargo xtask cross`: `halo` for a Raspberry Pi, built on another machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::compiler::{self, Compiler};
use crate::sysroot::{self, AARCH64, Std};
use crate::{cargo, glibc, paths, say};

/// GCC for ARM, which links.
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// Debian's packages of the linker and of the C library that it links with.
pub(crate) const PACKAGES: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// Build `halo` for another architecture, optimised, and say where it is.
///
/// Needs GCC for that architecture, and Rust's standard library for it or a way to build one; says so where they are not to be
/// had. The program runs on every 64-bit Raspberry Pi (3, 4, 5) with Debian 12 or Raspberry Pi OS bookworm, or later: a newer C
/// library than theirs is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The architecture.
    #[arg(value_enum, value_name = "ARCH")]
    arch: Arch,
}

/// What can be built for here, besides this machine's own.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Arch {
    Aarch64,
}

pub(crate) fn run(Args { arch }: Args) -> Result<()> {
    let Arch::Aarch64 = arch;
    let halo = Cross::ready()?.build("halo")?;
    let needed = glibc::needed(&halo)?;
    say::step(
        "Built",
        format_args!("{}, which needs glibc {needed}", halo.display()),
    );
    Ok(())
}

/// Everything that compiling for ARM takes.
pub(crate) struct Cross {
    std: Std,
}

impl Cross {
    /// Finds it, and builds the standard library if need be.
    pub(crate) fn ready() -> Result<Self> {
        let linker = Command::new(LINKER)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        ensure!(
            linker.is_ok(),
            "building for ARM needs `{LINKER}`, which is not there; on Debian: sudo apt install {}",
            PACKAGES.join(" ")
        );
        let std = sysroot::provide(&Compiler::find()?, &AARCH64)?;
        Ok(Self { std })
    }

    /// A Cargo command that compiles the host's workspace for ARM.
    ///
    /// For any ARMv8-A, since a Raspberry Pi 4 has nothing more. What is worth more on a newer one is chosen when it runs: the
    /// matrix products by ONNX Runtime, the vector instructions by `pulp`, atomic instructions by Rust's own library.
    pub(crate) fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut flags = vec![
            compiler::remap(paths::root(), "/halo"),
            compiler::remap(&compiler::registry()?, "/cargo"),
        ];
        flags.extend(self.std.flags());
        let mut command = compiler::cargo(subcommand, AARCH64.triple, &flags);
        command
            .current_dir(paths::root())
            .args(["--locked", "--workspace"])
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
        Ok(command)
    }

    /// Builds the program `name` and returns where Cargo has put it.
    pub(crate) fn build(&self, name: &str) -> Result<PathBuf> {
        let program = cargo::program(&mut self.cargo("build")?, name)?;
        check(&program)?;
        Ok(program)
    }
}

/// Refuses a program that Debian 12 has no C library for.
fn check(program: &Path) -> Result<()> {
    let needed = glibc::needed(program)?;
    ensure!(
        needed <= glibc::DEBIAN_12,
        "{} needs glibc {needed}, and Debian 12 has {}: build it with an older C library, such as Debian 12's \
         libc6-dev-arm64-cross",
        program.display(),
        glibc::DEBIAN_12
    );
    Ok(())
}
