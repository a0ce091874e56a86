//! What went over the data plane, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Kind;

/// Packets, and the bytes of their headers and bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Traffic {
    /// Number of packets.
    pub packets: u64,
    /// Bytes of headers and bodies, without zenoh's and the network's own.
    pub bytes: u64,
}

/// A node's counts since its session was opened.
///
/// Every packet that arrives is counted once: as received, dropped or malformed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Handed to zenoh, by kind in the order of [`Kind::ALL`].
    pub sent: [Traffic; Kind::ALL.len()],
    /// Arrived, valid and passed on, by kind in the order of [`Kind::ALL`].
    pub received: [Traffic; Kind::ALL.len()],
    /// Arrived, and thrown away by injected faults.
    pub dropped: Traffic,
    /// Arrived, and thrown away because they are not valid packets.
    pub malformed: Traffic,
    /// Of those received: of no use, since they came twice, too late, for nobody here, or do not fit what is waited for.
    #[serde(default)]
    pub useless: u64,
    /// Not sent, because the packet was not valid or zenoh refused it.
    pub send_failures: u64,
}

impl Counters {
    /// What was sent of one kind.
    #[must_use]
    pub fn sent_of(&self, kind: Kind) -> Traffic {
        self.sent[kind.index()]
    }

    /// What was received of one kind.
    #[must_use]
    pub fn received_of(&self, kind: Kind) -> Traffic {
        self.received[kind.index()]
    }
}

/// Counts as they grow.
#[derive(Debug, Default)]
struct LiveTraffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl LiveTraffic {
    fn add(&self, bytes: usize) {
        // Counts order nothing else, so relaxed is enough.
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn get(&self) -> Traffic {
        Traffic {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// All counts of a node as they grow.
#[derive(Debug, Default)]
pub(crate) struct LiveCounters {
    sent: [LiveTraffic; Kind::ALL.len()],
    received: [LiveTraffic; Kind::ALL.len()],
    dropped: LiveTraffic,
    malformed: LiveTraffic,
    useless: AtomicU64,
    send_failures: AtomicU64,
}

impl LiveCounters {
    pub(crate) fn sent(&self, kind: Kind, bytes: usize) {
        self.sent[kind.index()].add(bytes);
    }

    pub(crate) fn received(&self, kind: Kind, bytes: usize) {
        self.received[kind.index()].add(bytes);
    }

    pub(crate) fn dropped(&self, bytes: usize) {
        self.dropped.add(bytes);
    }

    pub(crate) fn malformed(&self, bytes: usize) {
        self.malformed.add(bytes);
    }

    pub(crate) fn useless(&self) {
        self.useless.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn send_failure(&self) {
        self.send_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Counters {
        Counters {
            sent: self.sent.each_ref().map(LiveTraffic::get),
            received: self.received.each_ref().map(LiveTraffic::get),
            dropped: self.dropped.get(),
            malformed: self.malformed.get(),
            useless: self.useless.load(Ordering::Relaxed),
            send_failures: self.send_failures.load(Ordering::Relaxed),
        }
    }
}
