use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use halo_policy::Kind;

use crate::output::Output;

/// Make a crate for a policy of your own, with the contract in it
///
/// It builds as it is, to the simplest policy there is. docs/guides/policies.md goes on from there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo policy new scheduler my-scheduler
  halo policy new predictor my-predictor --path policies/my-predictor")]
pub(crate) struct New {
    /// What it decides: scheduler or predictor
    kind: Kind,

    /// Its name, which is the crate's and the policy's
    name: String,

    /// The folder to make [default: the name]
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,
}

impl New {
    pub(super) fn execute(self, output: &Output) -> Result<ExitCode> {
        ensure!(
            is_crate_name(&self.name),
            "{:?} cannot be a crate's name: use 1 to 64 of a-z, 0-9, '-' and '_', beginning with a letter",
            self.name
        );
        let folder = self.path.unwrap_or_else(|| PathBuf::from(&self.name));
        ensure!(
            !folder.exists(),
            "{} is there already; give another folder with --path",
            folder.display()
        );
        let source = match self.kind {
            Kind::Scheduler => include_str!("../../../templates/scheduler.rs"),
            Kind::Predictor => include_str!("../../../templates/predictor.rs"),
        };
        let manifest = include_str!("../../../templates/Cargo.toml");
        let contract = include_str!("../../../../../wit/policy.wit");
        write(
            &folder.join("Cargo.toml"),
            &manifest.replace("{name}", &self.name),
        )?;
        write(
            &folder.join("src/lib.rs"),
            &source.replace("{name}", &self.name),
        )?;
        write(&folder.join("wit/policy.wit"), contract)?;
        write(&folder.join(".gitignore"), "/target\n/*.wasm\n")?;
        if output.json() {
            output.line(
                &serde_json::json!({ "name": self.name, "kind": self.kind, "folder": folder }),
            )?;
        } else {
            output.note(format_args!(
                "a {} in {1}; `cargo xtask policies {1}` in HALO's repository makes a component of it",
                self.kind,
                folder.display()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Names that are crates', files' and policies' names alike.
fn is_crate_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(plain)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().unwrap_or(path)).with_context(cannot)?;
    fs::write(path, text).with_context(cannot)
}
