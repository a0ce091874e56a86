use std::fs;

use serde::{Deserialize, Serialize};

/// What the process took of the machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Once the model was loaded.
    pub loaded: Resident,
    /// After prompts and decoding, with the KV cache.
    pub decoding: Resident,
    /// The most there was until then, in loading too.
    pub peak: u64,
    /// The KV cache, which `decoding` includes.
    pub kv_cache: u64,
}

/// Resident memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// All of it.
    pub total: u64,
    /// The part of it that is mapped files. The system may take it back and read the files again.
    pub file: u64,
}

impl Resident {
    /// This process, now. `None` where the system does not tell.
    pub(super) fn now() -> Option<Self> {
        Some(Self {
            total: of_process("VmRSS:")?,
            file: of_process("RssFile:")?,
        })
    }
}

/// What the process takes now, having taken `loaded` before it generated. `None` where the system does not tell.
pub(super) fn since(loaded: Option<Resident>, kv_cache: u64) -> Option<Memory> {
    Some(Memory {
        loaded: loaded?,
        decoding: Resident::now()?,
        peak: of_process("VmHWM:")?,
        kv_cache,
    })
}

fn of_process(key: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, key).map(|kb| kb * 1024)
}

fn kilobytes(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_a_process_takes() {
        let status = "VmHWM:\t  123456 kB\nVmRSS:\t   12340 kB\nRssFile:\t       8 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(12340));
        assert_eq!(kilobytes(status, "RssFile:"), Some(8));
        assert_eq!(kilobytes(status, "RssAnon:"), None);
        let now = Resident::now().unwrap();
        assert!(0 < now.file && now.file < now.total);
        assert!(now.total <= since(Some(now), 0).unwrap().peak);
    }
}
