//! qemu's user-mode emulator of ARM: the one that is installed, or Debian's, brought into the data folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cargo::output;
use crate::debian::Package;
use crate::paths;

const PROGRAM: &str = "qemu-aarch64";

/// The oldest major version to use. 7.2, which Debian 12 has, crashes when ONNX Runtime's threads start.
const OLDEST: u32 = 10;

/// Debian's suites that have one to use, the likeliest first.
const SUITES: [&str; 2] = ["bookworm-backports", "trixie"];

/// The emulator, downloaded if need be (60 MB).
pub(crate) fn ready() -> Result<PathBuf> {
    let kept = paths::data()?.join("qemu").join(PROGRAM);
    for program in [Path::new(PROGRAM), &kept] {
        if is_new_enough(program) {
            return Ok(program.to_owned());
        }
    }
    let folder = tempfile::tempdir()?;
    let package = Package::bring(folder.path(), &SUITES, "qemu-user", |version| {
        // After the epoch.
        major(version.split_once(':').map_or(version, |(_, rest)| rest)) >= Some(OLDEST)
    });
    let package = package.and_then(|found| {
        found.with_context(|| format!("Debian's {} have none", SUITES.join(" and ")))
    });
    let package = package.with_context(|| {
        format!("emulating ARM needs {PROGRAM} {OLDEST} or later, which is not there: install it (qemu-user)")
    })?;
    package.unpack(&format!("./usr/bin/{PROGRAM}"), folder.path())?;
    fs::create_dir_all(kept.parent().unwrap_or(Path::new("/")))?;
    fs::copy(folder.path().join("usr/bin").join(PROGRAM), &kept)
        .with_context(|| format!("cannot write {}", kept.display()))?;
    ensure!(is_new_enough(&kept), "{} does not run here", kept.display());
    Ok(kept)
}

fn is_new_enough(program: &Path) -> bool {
    let words = output(Command::new(program).arg("--version"));
    words.is_ok_and(|words| {
        let version = words.split_once(" version ").map(|(_, rest)| rest);
        version.and_then(major) >= Some(OLDEST)
    })
}

/// The first number of a version.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(major("10.0.2 (Debian 1:10.0.2+ds-2)") >= Some(OLDEST));
        assert!(major("7.2.19 (Debian 1:7.2+dfsg-7)") < Some(OLDEST));
        assert!(major("none") < Some(OLDEST));
    }
}
