use std::{env, fs, thread};

use serde::{Deserialize, Serialize};

/// What was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name, or its architecture where it has no other.
    pub processor: String,
    /// Cores that the process may run on.
    pub cores: usize,
    /// Processes that wanted to compute, averaged over the minute before: whatever else went on.
    pub load: Option<f64>,
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            processor: name(&read("/proc/cpuinfo"), &read("/proc/device-tree/model"))
                .unwrap_or_else(|| env::consts::ARCH.into()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            load: read("/proc/loadavg")
                .split_whitespace()
                .next()
                .and_then(|load| load.parse().ok()),
        }
    }
}

/// ARM's `cpuinfo` has no name for the processor, but their boards have one.
fn name(cpuinfo: &str, board: &str) -> Option<String> {
    let processor = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, name)| name);
    let name = processor.unwrap_or(board).trim_matches(['\0', ' ', '\t']);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn processors_and_boards_have_names() {
        let x86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu\n";
        assert_eq!(name(x86, "").as_deref(), Some("AMD EPYC"));
        let arm = "processor\t: 0\nFeatures\t: fp asimd\n";
        let board = "Raspberry Pi 5 Model B Rev 1.0\0";
        let found = name(arm, board);
        assert_eq!(found.as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
        assert_eq!(name(arm, ""), None);
    }
}
