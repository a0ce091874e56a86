//! What there is to know of a machine to make sense of its figures.

use std::env;
use std::fs;

use halo_runtime::memory;

use crate::commands::doctor::Machine;
use crate::output;

/// The board, the system and its settings, a line for each that the machine tells.
pub(super) fn describe() -> String {
    let os = read("/etc/os-release").and_then(|text| value(&text, "PRETTY_NAME="));
    let frequency = read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
        .and_then(|kilohertz| kilohertz.parse::<f64>().ok())
        .map(|kilohertz| format!(", up to {:.1} GHz", kilohertz / 1e6));
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let lines = [
        ("board", read("/proc/device-tree/model")),
        ("instructions", Some(Machine::this().features())),
        (
            "governor",
            governor.map(|g| g + &frequency.unwrap_or_default()),
        ),
        ("memory available", memory::available().map(output::bytes)),
        ("system", os),
        (
            "kernel",
            read("/proc/sys/kernel/osrelease").map(|k| format!("{k} {}", env::consts::ARCH)),
        ),
    ];
    let lines = lines
        .into_iter()
        .filter_map(|(what, found)| Some((what, found?)));
    lines.fold(String::new(), |text, (what, found)| {
        format!("{text}{what}: {found}\n")
    })
}

/// What a small file of the kernel's says, if anything.
fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_matches(['\0', ' ', '\n']);
    (!text.is_empty()).then(|| text.to_owned())
}

/// The value of a line `KEY="value"`.
fn value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_value_is_read() {
        let text = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(
            value(text, "PRETTY_NAME=").unwrap(),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(value(text, "ID="), None);
    }
}
