//! How much memory there is.

use std::fs;
use std::sync::OnceLock;

use halo_engine::KvCache;
use halo_models::{Package, Shape};

use crate::error::{GenerationError, NodeError};
use crate::generation::Request;
use crate::sequence;

/// What gives freed memory back to the system.
static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Has this called whenever placements have been freed, on a thread on which it may take some milliseconds: what an allocator does
/// not give back to the system by itself, it keeps for as long as nothing is loaded again.
pub fn give_back_by(give_back: fn()) {
    // The first one counts.
    let _ = GIVE_BACK.set(give_back);
}

/// Placements have been freed.
pub(crate) fn freed() {
    if let Some(give_back) = GIVE_BACK.get() {
        give_back();
    }
}

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

/// Checks, before anything is loaded, that a request can be met: its prompt fits the context, and weights of so many bytes
/// and the KV cache of prompt and answer fit the memory that is available.
///
/// # Errors
///
/// The request cannot be met by any machine, or not by this one.
pub fn check(package: &Package, request: &Request, weights: u64) -> Result<(), NodeError> {
    let shape = package.shape();
    let (_, tokens) = sequence::encode(shape, &package.tokenizer()?, request)?;
    let room = Room {
        weights,
        token: KvCache::bytes(shape, 1),
        available: available().unwrap_or(u64::MAX),
    };
    Ok(room.check(tokens)?)
}

/// What there is room for.
#[derive(Debug, Clone, Copy)]
struct Room {
    weights: u64,
    /// Bytes of a token's keys and values.
    token: u64,
    available: u64,
}

impl Room {
    fn check(self, tokens: usize) -> Result<(), NoRoom> {
        let cache = self.token.saturating_mul(tokens as u64);
        if self.weights.saturating_add(cache) <= self.available {
            return Ok(());
        }
        Err(NoRoom {
            weights: self.weights,
            tokens,
            cache,
            available: self.available,
            fits: self.available.saturating_sub(self.weights) / self.token.max(1),
        })
    }
}

/// Weights and KV cache that do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the weights take {:.1} MB and the KV cache of {tokens} tokens {:.1} MB, and {:.1} MB of memory are available; {}",
    *.weights as f64 / 1e6, *.cache as f64 / 1e6, *.available as f64 / 1e6, advice(*.fits)
)]
pub struct NoRoom {
    /// Bytes of the weights.
    pub weights: u64,
    /// Tokens of prompt and answer.
    pub tokens: usize,
    /// Bytes of their keys and values.
    pub cache: u64,
    /// Bytes there are.
    pub available: u64,
    /// Tokens that there is room for besides the weights.
    pub fits: u64,
}

fn advice(fits: u64) -> String {
    match fits {
        0 => "take a smaller model, or one with fewer bits a weight, or lead a cluster with --cluster".into(),
        fits => format!("there is room for {fits} tokens of prompt and answer: --context {fits}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let room = Room {
            weights: 600_000_000,
            token: 45_000,
            available: 1_000_000_000,
        };
        assert_eq!(room.check(8888), Ok(()));
        let refused = room.check(131_072).unwrap_err();
        assert_eq!(refused.fits, 8888);
        assert_eq!(
            refused.to_string(),
            "the weights take 600.0 MB and the KV cache of 131072 tokens 5898.2 MB, and 1000.0 MB of memory are available; there is \
             room for 8888 tokens of prompt and answer: --context 8888"
        );
        let small = Room {
            available: 500_000_000,
            ..room
        };
        assert!(
            small
                .check(1)
                .unwrap_err()
                .to_string()
                .contains("a smaller model")
        );
        let absurd = Room {
            token: u64::MAX / 2,
            ..room
        };
        assert_eq!(absurd.check(usize::MAX).unwrap_err().fits, 0);
    }

    #[test]
    fn caches_of_others_count() {
        let package = Package::open(std::path::Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../models/tiny"
        )))
        .unwrap();
        let shape = package.shape();
        let token = KvCache::bytes(shape, 1);
        assert!(check_cache(shape, 10, 5 * token, 15 * token).is_ok());
        let refused = check_cache(shape, 11, 5 * token, 15 * token);
        assert!(matches!(
            refused,
            Err(GenerationError::NoMemory {
                tokens: 11,
                fits: 10,
                ..
            })
        ));
    }
}
