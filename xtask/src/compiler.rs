//! The Rust compiler in use, and calling Cargo for another target so that nothing but the source decides what comes out.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo::output;

/// The compiler in use.
pub(crate) struct Compiler {
    /// Its version, such as `1.95.0`.
    pub(crate) release: String,
    /// The commit it was built from.
    pub(crate) commit: String,
}

impl Compiler {
    /// Asks `rustc` for its version.
    pub(crate) fn find() -> Result<Self> {
        let words = ask(&["-vV"])?;
        let line = |key: &str| {
            let value = words.lines().find_map(|line| line.strip_prefix(key));
            value
                .map(str::to_owned)
                .with_context(|| format!("`rustc -vV` says nothing about {key}"))
        };
        Ok(Self {
            release: line("release: ")?,
            commit: line("commit-hash: ")?,
        })
    }
}

/// What `rustc` answers to these arguments.
pub(crate) fn ask(arguments: &[&str]) -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(output(Command::new(rustc).args(arguments))?
        .trim()
        .to_owned())
}

/// `cargo SUBCOMMAND` for `triple` in the release profile with these flags for the compiler, and nothing of the caller's
/// environment that would change the result.
pub(crate) fn cargo(subcommand: &str, triple: &str, flags: &[OsString]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([subcommand, "--release", "--target", triple]);
    let of_target = format!("CARGO_TARGET_{}_", triple.to_uppercase().replace('-', "_"));
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let changes_code = ["CARGO_PROFILE_", "CARGO_BUILD_", &of_target];
        // Cargo sets those of the package that runs, which is this tool's.
        let of_package = name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR";
        if of_package || changes_code.iter().any(|prefix| name.starts_with(prefix)) {
            cargo.env_remove(name.as_ref());
        }
    }
    cargo
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    // Incremental compilation would divide the code in another way.
    cargo.env("CARGO_INCREMENTAL", "0");
    // Divided by a character that paths do not have.
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        flags.join(&OsString::from("\x1f")),
    );
    cargo
}

/// The compiler's flag that writes `name` for the folder `path`. Cargo leaves it out of the names it makes up for packages.
pub(crate) fn remap(path: &Path, name: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(path);
    flag.push("=");
    flag.push(name);
    flag
}

/// Where Cargo unpacks the packages of registries.
pub(crate) fn registry() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = set("CARGO_HOME").or_else(|| Some(set("HOME")?.join(".cargo")));
    Ok(home
        .context("neither CARGO_HOME nor HOME is set")?
        .join("registry/src"))
}
