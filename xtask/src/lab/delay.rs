//! Packets that arrive late: by a relay in the way to a host, since not every kernel can delay them.
//!
//! The host's port is taken off the bridge and put on one of its own; two TAP devices join the two bridges, and a process passes
//! frames from one to the other.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::condition::Condition;
use super::host::Host;
use super::relay::{READY, far, near};
use super::tools;
use crate::paths;

/// How late packets arrive at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delay {
    /// At least so much.
    least: Duration,
    /// Up to so much more.
    jitter: Duration,
}

impl Delay {
    pub(super) const NONE: Self = Self::millis(0, 0);

    pub(super) const fn millis(least: u64, jitter: u64) -> Self {
        Self {
            least: Duration::from_millis(least),
            jitter: Duration::from_millis(jitter),
        }
    }

    /// Milliseconds, if they can be.
    pub(super) fn new(least: f64, jitter: f64) -> Result<Self> {
        let duration = |milliseconds: f64| {
            ensure!(
                (0.0..=10_000.0).contains(&milliseconds),
                "{milliseconds} ms is no delay: it is 0 to 10000"
            );
            Ok(Duration::from_secs_f64(milliseconds / 1e3))
        };
        Ok(Self {
            least: duration(least)?,
            jitter: duration(jitter)?,
        })
    }
}

impl Condition for Delay {
    fn set(&self, host: &Host) -> Result<()> {
        remove_relay(host)?;
        if *self == Self::NONE {
            return Ok(());
        }
        self.insert_relay(host).inspect_err(|_| {
            // The host is reached as before, then. What went wrong first is what is told.
            let _ = remove_relay(host);
        })
    }
}

impl Delay {
    fn insert_relay(self, host: &Host) -> Result<()> {
        let (switch, number) = (&host.switch, host.number);
        let program = paths::program()?;
        let mut command = Command::new("nsenter");
        command
            .arg(tools::net(switch))
            .arg(program)
            .args(["lab", "relay"]);
        for value in [u64::from(number), micros(self.least), micros(self.jitter)] {
            command.arg(value.to_string());
        }
        // It goes on when this process ends, whatever becomes of the terminal.
        let mut relay = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start the relay that delays packets")?;
        let mut said = String::new();
        if let Some(stdout) = relay.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        ensure!(
            said.trim() == READY,
            "the relay that delays packets did not start: {}",
            said.trim()
        );

        let (far, near, own, port) = (far(number), near(number), own_bridge(host), host.port());
        for command in [
            format!("link add {own} type bridge"),
            format!("link set {own} up"),
            format!("link set {far} master br0 up"),
            format!("link set {near} master {own} up"),
            format!("link set {port} master {own}"),
        ] {
            ip(host, &command)?;
        }
        Ok(())
    }
}

/// Joins a host to the others directly. The relay ends when its devices go.
fn remove_relay(host: &Host) -> Result<()> {
    ip(host, &format!("link set {} master br0", host.port()))?;
    let links = tools::run("ip", &["-n", &host.switch, "-o", "link"])?;
    for device in [far(host.number), near(host.number), own_bridge(host)] {
        if links.contains(&format!(" {device}: ")) {
            ip(host, &format!("link del {device}"))?;
        }
    }
    Ok(())
}

/// Changes something of the switch.
fn ip(host: &Host, command: &str) -> Result<()> {
    let arguments = ["-n", &host.switch].into_iter().chain(command.split(' '));
    tools::run("ip", &arguments.collect::<Vec<_>>()).map(drop)
}

fn own_bridge(host: &Host) -> String {
    format!("b{}", host.number)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
