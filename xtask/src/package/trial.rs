//! A package's life on a machine: installed, started, asked how it is, removed and purged, in a Debian in a folder.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{cargo, say};

/// What the packages are for: the oldest that they run on.
const SUITE: &str = "bookworm";

/// The service's user, whom the package makes.
const USER: &str = "halo";

/// Does all of it.
pub(super) fn run(package: &Path) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("halo-trial.").tempdir()?;
    let machine = Machine(folder.path());
    say::step(
        "Installing",
        format_args!("Debian {SUITE} in {}", folder.path().display()),
    );
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args(["--variant=minbase", "--include=adduser,libstdc++6", SUITE])
        .arg(folder.path());
    cargo::output(&mut debootstrap).context("the trial needs root, debootstrap and a network")?;

    fs::copy(package, folder.path().join("halo.deb"))?;
    machine.run(&["dpkg", "-i", "/halo.deb"])?;
    ensure!(machine.has_user()?, "there is no user {USER}");
    let unit = fs::read_to_string(folder.path().join("usr/lib/systemd/system/halo.service"))?;
    let mut node = machine.start(&unit)?;
    let said = first_line(&mut node);
    // Asked while the node runs, as the service's user.
    let doctor = said.and_then(|line| {
        say::step("Started", line.trim());
        machine.run(&["runuser", "-u", USER, "--", "halo", "doctor"])
    });
    node.kill()?;
    node.wait()?;
    doctor?;

    machine.run(&["dpkg", "--remove", "halo"])?;
    ensure!(
        machine.has("etc/halo/halo.toml"),
        "removing took the configuration along"
    );
    for gone in [
        "usr/bin/halo",
        "usr/lib/halo",
        "usr/lib/systemd/system/halo.service",
    ] {
        ensure!(!machine.has(gone), "removing left {gone}");
    }
    machine.run(&["dpkg", "--purge", "halo"])?;
    for gone in ["etc/halo", "var/lib/halo"] {
        ensure!(!machine.has(gone), "purging left {gone}");
    }
    ensure!(!machine.has_user()?, "purging left the user {USER}");
    say::step("Tried", "installed, started, asked, removed and purged");
    Ok(())
}

/// The command of a service's unit.
pub(super) fn command(unit: &str) -> Result<Vec<String>> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let line = line.context("the service starts nothing")?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

/// A Debian in a folder.
struct Machine<'a>(&'a Path);

impl Machine<'_> {
    /// A command that runs there, with processes of its own: what it leaves behind ends with it.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(format!("--root={}", self.0.display()))
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        say::step("Running", words.join(" "));
        cargo::run(&mut self.command(words))
    }

    /// Starts what a unit starts, as systemd would: as its user, and with its environment.
    fn start(&self, unit: &str) -> Result<Child> {
        let environment = unit
            .lines()
            .filter_map(|line| line.strip_prefix("Environment="));
        let program = command(unit)?;
        let mut words = vec!["runuser", "-u", USER, "--", "env"];
        words.extend(environment);
        words.extend(program.iter().map(String::as_str));
        words.push("--json");
        say::step("Running", words.join(" "));
        // systemd makes the folder that the unit calls the service's state.
        self.run(&["install", "-d", "-o", USER, "-g", USER, "/var/lib/halo"])?;
        let mut command = self.command(&words);
        Ok(command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?)
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).symlink_metadata().is_ok()
    }

    fn has_user(&self) -> Result<bool> {
        let users = fs::read_to_string(self.0.join("etc/passwd"))?;
        Ok(users
            .lines()
            .any(|line| line.starts_with(&format!("{USER}:"))))
    }
}

/// The first line that a process prints.
fn first_line(process: &mut Child) -> Result<String> {
    let output = process.stdout.as_mut().context("it has an output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    ensure!(line.contains("ready"), "the node did not start");
    Ok(line)
}
