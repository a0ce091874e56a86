//! One host of a lab.

use std::ffi::OsStr;
use std::process::Command;

use super::{cgroup, tools};

/// One host of a lab.
#[derive(Debug)]
pub(super) struct Host {
    /// From 1.
    pub(super) number: u8,
    /// Its network namespace. Its control groups have the same name.
    pub(super) namespace: String,
    /// The network namespace that joins the hosts.
    pub(super) switch: String,
}

impl Host {
    /// Its address.
    pub(super) fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// The switch's end of its link; the host's own is `eth0`.
    pub(super) fn port(&self) -> String {
        format!("p{}", self.number)
    }

    /// A command that runs on it.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // The shell joins the control groups before there is anything that could ask how many cores it has.
        const JOIN: &str =
            r#"for group in $0; do echo $$ > "$group/cgroup.procs" || exit; done; exec "$@""#;
        let groups = cgroup::folders(&self.namespace);
        let groups: Vec<_> = groups
            .iter()
            .map(|folder| folder.to_string_lossy())
            .collect();
        let mut command = Command::new("sh");
        command.args(["-c", JOIN, &groups.join(" "), "nsenter"]);
        // Not by `ip netns exec`, which would hide the control groups.
        command.arg(tools::net(&self.namespace)).arg(program);
        command
    }
}
