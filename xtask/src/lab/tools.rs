//! The programs that the lab is made with, and whether they can be used here.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;

/// Where `ip netns` keeps network namespaces.
pub(super) const NAMESPACES: &str = "/run/netns";

/// Where TAP devices come from.
const TUN: &str = "/dev/net/tun";

/// Debian's packages of the programs below.
const PACKAGES: [&str; 2] = ["iproute2", "nftables"];

/// Checks that the lab can be made.
pub(crate) fn ready() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab needs root, to make network namespaces: sudo env \"PATH=$PATH\" cargo xtask lab ..."
    );
    for [program, version] in [["ip", "-V"], ["tc", "-V"], ["nft", "-v"], ["nsenter", "-V"]] {
        let found = Command::new(program)
            .arg(version)
            .stdout(Stdio::null())
            .status();
        ensure!(
            found.is_ok(),
            "the lab needs `{program}`, which is not there; on Debian: sudo apt install {}",
            PACKAGES.join(" ")
        );
    }
    ensure!(
        Path::new(TUN).exists(),
        "the lab needs {TUN}, which this kernel or container does not have"
    );
    // What a kernel has of nftables and namespaces is seen by using them, in a namespace that is gone at once.
    run("unshare", &["--net", "nft", "add", "table", "inet", "halo"])
        .context("the lab needs network namespaces with nftables, which do not work here")?;
    Ok(())
}

/// Installs what is missing, on Debian and as root. For machines of which nobody has to be asked.
pub(crate) fn provide() -> Result<()> {
    if ready().is_ok() || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        cargo::run(&mut apt)
    };
    apt(&["update", "-qq"])?;
    let install = ["install", "-qq", "--no-install-recommends", "-y"];
    apt(&[&install[..], &PACKAGES].concat())
}

/// Runs a program that changes or tells something, and returns what it prints.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    finish(Command::new(program).args(arguments), "")
}

/// Runs a program in a network namespace, with `input` to read.
pub(super) fn run_in(
    namespace: &str,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String> {
    let mut command = Command::new("nsenter");
    finish(
        command.arg(net(namespace)).arg(program).args(arguments),
        input,
    )
}

/// `nsenter`'s argument for a network namespace.
pub(super) fn net(namespace: &str) -> String {
    format!("--net={NAMESPACES}/{namespace}")
}

fn finish(command: &mut Command, input: &str) -> Result<String> {
    let words = cargo::words(command);
    let output = output(command, input).with_context(|| format!("cannot run `{words}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{words}` failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(command: &mut Command, input: &str) -> std::io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever does not read it is heard below.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}
