//! How much memory there is.

use std::fs;

/// Bytes that this process may still take: what the kernel calls available, or less where a control group says so. `None`
/// where the machine does not tell.
pub fn available() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes: u64 = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
    Some(limit().map_or(kilobytes * 1024, |limit| limit.min(kilobytes * 1024)))
}

/// The control group's limit less what it uses, in version 2 or 1 of the interface.
fn limit() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ]
    .iter()
    .find_map(|(limit, used)| Some((read(limit)?, read(used)?)))?;
    Some(limit.saturating_sub(used))
}
