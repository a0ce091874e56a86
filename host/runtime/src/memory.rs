//! How much memory there is.

use std::fs;

use halo_engine::KvCache;
use halo_models::Shape;

use crate::error::GenerationError;

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

/// Checks that a KV cache of so many tokens fits into what is available, besides what is `promised` to others.
pub(crate) fn check_cache(
    shape: &Shape,
    tokens: usize,
    promised: u64,
    available: u64,
) -> Result<(), GenerationError> {
    let needed = KvCache::bytes(shape, tokens);
    let left = available.saturating_sub(promised);
    if needed <= left {
        return Ok(());
    }
    Err(GenerationError::NoMemory {
        tokens,
        needed,
        available: left,
        fits: left / KvCache::bytes(shape, 1),
    })
}

/// Bytes that KV caches of generations that have ended may take: what one of the whole context takes, but no more than a
/// quarter of what is available.
pub(crate) fn for_prefixes(shape: &Shape) -> u64 {
    KvCache::bytes(shape, shape.context).min(available().unwrap_or(u64::MAX) / 4)
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
