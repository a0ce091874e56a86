//! What the host keeps for one instance: its limits, its share of the log, and an empty WASI context.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::{Limits, bindings::scheduler::halo::policy::host};

/// WASI handles (clock subscriptions, standard streams) that one instance may have.
const MAX_HANDLES: usize = 256;
/// Bytes of randomness that a policy may ask for at once.
const MAX_RANDOM: u64 = 64 << 10;

/// The state behind one instance's store.
pub(crate) struct Guest {
    policy: Arc<str>,
    log: Log,
    limiter: Limiter,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl Guest {
    pub(crate) fn new(policy: Arc<str>, limits: &Limits) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            policy,
            log: Log::new(limits.log_message, limits.log_rate),
            limiter: Limiter::new(limits.memory),
            wasi: WasiCtxBuilder::new()
                .allow_tcp(false)
                .allow_udp(false)
                .max_random_size(MAX_RANDOM)
                .build(),
            table,
        }
    }

    pub(crate) fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

impl host::Host for Guest {
    fn log(&mut self, message: String) {
        if let Some(line) = self.log.admit(&message, Instant::now()) {
            tracing::info!(policy = %self.policy, "{line}");
        }
    }
}

impl crate::bindings::scheduler::halo::policy::types::Host for Guest {}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// Limits on memories, tables and instances, which remembers whether memory was refused: what a policy then dies of is a
/// plain trap, and should be reported as what it was.
pub(crate) struct Limiter {
    limits: StoreLimits,
    memory: usize,
    /// Bytes of all the instance's memories together.
    used: usize,
    refused: bool,
}

impl Limiter {
    fn new(memory: usize) -> Self {
        let limits = StoreLimitsBuilder::new()
            .memory_size(memory)
            .table_elements(100_000)
            .instances(64)
            .tables(64)
            .memories(16)
            .build();
        Self {
            limits,
            memory,
            used: 0,
            refused: false,
        }
    }

    /// Whether memory was refused since this was last asked.
    pub(crate) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let granted =
            used <= self.memory && self.limits.memory_growing(current, desired, maximum)?;
        if granted {
            self.used = used;
        } else {
            self.refused = true;
        }
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.refused = true;
        self.limits.memory_grow_failed(error)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, maximum)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}

/// A policy's share of the log: so many messages a second, each of so many bytes.
struct Log {
    max_bytes: usize,
    rate: u32,
    second: Option<Instant>,
    written: u32,
    dropped: u64,
}

impl Log {
    fn new(max_bytes: usize, rate: u32) -> Self {
        Self {
            max_bytes,
            rate,
            second: None,
            written: 0,
            dropped: 0,
        }
    }

    /// The line to write for `message`, if there is room for one at `now`.
    fn admit(&mut self, message: &str, now: Instant) -> Option<String> {
        if self
            .second
            .is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1))
        {
            self.second = Some(now);
            self.written = 0;
        }
        if self.written >= self.rate {
            self.dropped += 1;
            return None;
        }
        self.written += 1;
        let cut = message.floor_char_boundary(self.max_bytes.min(message.len()));
        // One message is one line, whatever a policy puts into it.
        let mut line: String = message[..cut]
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if cut < message.len() {
            line.push('…');
        }
        if self.dropped > 0 {
            line.push_str(&format!(
                " ({} messages dropped before this one)",
                std::mem::take(&mut self.dropped)
            ));
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut log = Log::new(5, 10);
        assert_eq!(log.admit("äöü\n", Instant::now()).unwrap(), "äö…");
        assert_eq!(log.admit("a\nb", Instant::now()).unwrap(), "a b");
    }

    #[test]
    fn floods_are_dropped_and_counted() {
        let mut log = Log::new(100, 2);
        let start = Instant::now();
        let lines: Vec<_> = (0..5).map(|_| log.admit("x", start)).collect();
        assert_eq!(lines.iter().flatten().count(), 2);
        let line = log.admit("x", start + Duration::from_secs(1)).unwrap();
        assert_eq!(line, "x (3 messages dropped before this one)");
    }

    #[test]
    fn memories_share_one_limit() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.take_refused());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.take_refused());
        assert!(limiter.memory_growing(60, 100, None).unwrap());
    }
}
