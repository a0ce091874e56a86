use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::section::Lines;
use crate::{cargo, paths, say};

/// What runs measurements, and keeps what they printed.
#[derive(Debug)]
pub(super) struct Programs {
    halo: PathBuf,
    /// Of `halo`: what another one printed is not this one's.
    digest: String,
    kept: PathBuf,
    again: bool,
}

/// What is kept of a measurement.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    command: String,
    lines: Lines,
}

impl Programs {
    pub(super) fn new(halo: PathBuf, kept: PathBuf, again: bool) -> Result<Self> {
        let bytes = fs::read(&halo).with_context(|| format!("cannot read {}", halo.display()))?;
        fs::create_dir_all(&kept)
            .with_context(|| format!("cannot make the folder {}", kept.display()))?;
        Ok(Self {
            digest: hex(&Sha256::digest(bytes)),
            halo,
            kept,
            again,
        })
    }

    pub(super) fn halo(&self) -> &Path {
        &self.halo
    }

    /// What a command, `halo …` or `cargo xtask …`, prints as JSON, a value to a line.
    pub(super) fn measure(&self, command: &str) -> Result<Lines> {
        let name = hex(&Sha256::digest(format!("{} {command}", self.digest)));
        let path = self.kept.join(name + ".json");
        if !self.again
            && let Ok(text) = fs::read(&path)
            && let Ok(kept) = serde_json::from_slice::<Kept>(&text)
        {
            say::step("Kept", command);
            return Ok(kept.lines);
        }
        say::step("Running", command);
        let output = cargo::output(&mut self.command(command)?)?;
        let lines = output.lines().map(|line| {
            serde_json::from_str(line).with_context(|| format!("`{command}` printed `{line}`"))
        });
        let kept = Kept {
            command: command.to_owned(),
            lines: lines.collect::<Result<_>>()?,
        };
        // Written beside its place first: half a file is no measurement.
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_vec(&kept)?)
            .and_then(|()| fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(kept.lines)
    }

    fn command(&self, words: &str) -> Result<Command> {
        let mut command = if let Some(arguments) = words.strip_prefix("cargo xtask ") {
            let mut command = Command::new(paths::program()?);
            command
                .args(arguments.split(' '))
                .arg("--halo")
                .arg(&self.halo);
            command
        } else if let Some(arguments) = words.strip_prefix("halo ") {
            let mut command = Command::new(&self.halo);
            command.args(arguments.split(' '));
            command
        } else {
            bail!("`{words}` is no command of HALO's");
        };
        command.current_dir(paths::root());
        Ok(command)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
