//! The hosts and the links between them.

use std::fs;
use std::io::ErrorKind;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cgroup::{self, Limit};
use super::condition::Condition;
use super::host::Host;
use super::loss::Loss;
use super::tools::{self, NAMESPACES};
use crate::say;

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(known);
        fits.then(|| Self(text.to_owned()))
            .ok_or("a lab's name is 1 to 32 of a-z and 0-9")
    }
}

impl Name {
    /// What the names of all its namespaces begin with, and of nobody else's.
    fn prefix(&self) -> String {
        format!("halo-{}-", self.0)
    }

    /// The lab that a measurement makes for itself, beside the one of this name.
    pub(super) fn of(&self, measurement: &str) -> Self {
        Self(format!("{}{measurement}", self.0))
    }

    /// The namespace that joins the hosts.
    fn switch(&self) -> String {
        self.prefix() + "switch"
    }

    fn host(&self, number: u8) -> Host {
        Host {
            number,
            namespace: format!("{}{number}", self.prefix()),
            switch: self.switch(),
        }
    }
}

/// A lab that does not outlive what it is for.
pub(super) struct Temporary(pub(super) Name);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(&self.0) {
            say::warning("Left over", format_args!("{error:#}"));
        }
    }
}

/// A lab that is up.
#[derive(Debug)]
pub(super) struct Lab {
    hosts: Vec<Host>,
}

impl Lab {
    /// The lab of a name.
    pub(super) fn open(name: &Name) -> Result<Self> {
        let there = namespaces(name)?;
        let hosts: Vec<Host> = (1..=u8::MAX)
            .map(|number| name.host(number))
            .take_while(|host| there.contains(&host.namespace))
            .collect();
        ensure!(
            !hosts.is_empty(),
            "there is no such lab: `cargo xtask lab up` makes one"
        );
        Ok(Self { hosts })
    }

    /// Makes a lab in place of the one that there may be. If that fails, nothing of it is left.
    pub(super) fn up(name: &Name, hosts: u8) -> Result<Self> {
        Self::down(name)?;
        Self::make(name, hosts).inspect_err(|_| {
            if let Err(error) = Self::down(name) {
                say::warning("Left over", format_args!("{error:#}"));
            }
        })
    }

    fn make(name: &Name, hosts: u8) -> Result<Self> {
        allow_cubic()?;
        let switch = name.switch();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let hosts = (1..=hosts).map(|number| name.host(number)).collect();
        let lab = Self { hosts };
        for host in &lab.hosts {
            lab.join(host)?;
            // One core each, as far as there are as many.
            let core = (usize::from(host.number) - 1) % cores;
            cgroup::make(&host.namespace)?;
            Limit::Cores(core.to_string()).set(host)?;
            Loss::None.set(host)?;
        }
        Ok(lab)
    }

    /// Makes a host and its link.
    fn join(&self, host: &Host) -> Result<()> {
        let Host {
            namespace, switch, ..
        } = host;
        let (port, address) = (host.port(), host.address());
        ip(&format!("netns add {namespace}"))?;
        ip(&format!(
            "link add {port} netns {switch} type veth peer name eth0 netns {namespace}"
        ))?;
        // Without segments that are joined to larger ones: what is lost is what would be lost on a wire.
        ip(&format!(
            "-n {switch} link set {port} gso_max_segs 1 master br0 up"
        ))?;
        ip(&format!("-n {namespace} link set eth0 gso_max_segs 1 up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
        // What Raspberry Pi OS has.
        let cubic = "echo cubic > /proc/sys/net/ipv4/tcp_congestion_control";
        tools::run_in(namespace, "sh", &["-c", cubic], "").map(drop)
    }

    /// Takes a lab away, or what there is of it, with everything that runs in it.
    pub(super) fn down(name: &Name) -> Result<()> {
        let there = namespaces(name)?;
        for namespace in &there {
            kill_all(namespace)?;
            ip(&format!("netns del {namespace}"))?;
        }
        cgroup::remove(&name.prefix())
    }

    /// Takes a host's link away from the others', or puts it back.
    pub(super) fn cut(host: &Host, cut: bool) -> Result<()> {
        let state = if cut { "down" } else { "up" };
        ip(&format!(
            "-n {} link set {} {state}",
            host.switch,
            host.port()
        ))
    }

    /// All hosts, the first first.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of a number.
    pub(super) fn host(&self, number: u8) -> Result<&Host> {
        let found = self.hosts.iter().find(|host| host.number == number);
        found.with_context(|| {
            format!(
                "there is no host {number}: the lab has {}",
                self.hosts.len()
            )
        })
    }
}

fn ip(arguments: &str) -> Result<()> {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    tools::run("ip", &arguments).map(drop)
}

/// The lab's namespaces that there are.
fn namespaces(name: &Name) -> Result<Vec<String>> {
    let folder = match fs::read_dir(NAMESPACES) {
        Ok(folder) => folder,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {NAMESPACES}")),
    };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names
        .filter(|found| found.starts_with(&name.prefix()))
        .collect())
}

/// Kills what runs in a namespace.
fn kill_all(namespace: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let processes = tools::run("ip", &["netns", "pids", namespace])?;
        let processes: Vec<&str> = processes.split_whitespace().collect();
        if processes.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "these processes of {namespace} do not end: {}",
            processes.join(", ")
        );
        // One of them may have ended by itself; whether all have is seen above.
        let _ = tools::run("kill", &[&["-KILL"], &processes[..]].concat());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Lets namespaces choose the congestion control that is the default of most systems, where it is not this one's.
fn allow_cubic() -> Result<()> {
    const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let allowed = fs::read_to_string(ALLOWED).with_context(|| format!("cannot read {ALLOWED}"))?;
    if allowed.split_whitespace().any(|name| name == "cubic") {
        return Ok(());
    }
    fs::write(ALLOWED, format!("{} cubic", allowed.trim()))
        .context("this kernel has no congestion control `cubic` for TCP")
}
