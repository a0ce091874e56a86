//! Downloading one wheel with the user's own pip, because it knows their package index, proxy and certificates.

use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::onnxruntime::{PYTHON, Pin, VERSION};

/// How pip may be called, in the order of trying.
const CALLS: [&[&str]; 4] = [
    &["python3", "-m", "pip"],
    &["python", "-m", "pip"],
    &["pip3"],
    &["pip"],
];

/// Downloads the wheel of `pin` into `folder` and returns its path. Nothing is installed.
pub(crate) fn download(pin: &Pin, folder: &Path) -> Result<PathBuf> {
    let pip = CALLS.into_iter().find(|call| works(call)).with_context(|| {
        format!(
            "there is no pip to download ONNX Runtime with. On Debian, Ubuntu and Raspberry Pi OS: sudo apt install python3-pip. \
             Or bring the file {} from https://pypi.org/project/onnxruntime/{VERSION}/#files and give it to \
             `cargo xtask setup --wheel FILE`",
            pin.wheel_name()
        )
    })?;

    let mut command = Command::new(pip[0]);
    command.args(&pip[1..]);
    command.args([
        "download",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--no-deps",
    ]);
    command.args([
        "--implementation",
        "cp",
        "--python-version",
        PYTHON,
        "--abi",
        &format!("cp{PYTHON}"),
    ]);
    command
        .args(["--platform", pin.platform, "--dest"])
        .arg(folder)
        .arg(format!("onnxruntime=={VERSION}"));
    command.env("PIP_NO_INPUT", "1").stdin(Stdio::null());
    // A person sees pip's progress; our own standard output may be piped, so it goes to standard error.
    let stderr = io::stderr();
    let progress = if stderr.is_terminal() {
        File::from(stderr.as_fd().try_clone_to_owned()?).into()
    } else {
        Stdio::null()
    };
    let complaints = command
        .stdout(progress)
        .stderr(Stdio::piped())
        .output()
        .context("cannot run pip")?;
    if !complaints.status.success() {
        bail!(
            "pip could not download {} ({}). Is there a network, and is pip's index reachable (python3 -m pip config list)? \
             On a machine without a network, bring that file from another one and give it to `cargo xtask setup --wheel FILE`. \
             pip said:\n{}",
            pin.wheel_name(),
            complaints.status,
            String::from_utf8_lossy(&complaints.stderr).trim()
        );
    }

    let mut files = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    ensure!(
        files.len() == 1,
        "pip downloaded {} files where there should be {} alone",
        files.len(),
        pin.wheel_name()
    );
    Ok(files.remove(0))
}

fn works(call: &[&str]) -> bool {
    let mut command = Command::new(call[0]);
    command
        .args(&call[1..])
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
