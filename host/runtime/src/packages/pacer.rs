//! How fast pieces go out.

use std::collections::BTreeMap;
use std::time::Duration;

use halo_fabric::{Fabric, Kind, NodeId};
use tokio::time::Instant;

/// While tensors flow, pauses between two pieces are so many times as long as a piece takes: they have most of the link.
const PAUSES: u32 = 3;

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Nodes that may be taking at once; of more, those that came first are forgotten, and get one piece without a pause.
const MAX_TAKERS: usize = 64;

/// Makes those that ask for pieces wait for them.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Bytes a second at most.
    rate: Option<u64>,
    /// When the next piece may go out by the rate.
    next: Instant,
    /// When each node was given its last piece.
    given: BTreeMap<NodeId, Instant>,
    /// Packets of tensors that had passed by then.
    tensors: u64,
}

impl Pacer {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self {
            rate: rate.map(|rate| rate.max(1)),
            next: Instant::now(),
            given: BTreeMap::new(),
            tensors: 0,
        }
    }

    /// Waits until a piece of so many bytes may go to a node that asked for it at `asked`. Others wait as long as this one does.
    pub(super) async fn pause(
        &mut self,
        fabric: &Fabric,
        to: &NodeId,
        asked: Instant,
        bytes: usize,
    ) {
        let tensors = tensors(fabric);
        if let Some(given) = self.given.get(to).filter(|_| tensors > self.tensors) {
            // It asks for the next when it has the last, so that is how long one takes.
            let took = asked.saturating_duration_since(*given);
            tokio::time::sleep((PAUSES * took).min(LONGEST_PAUSE)).await;
        }
        if let Some(rate) = self.rate {
            tokio::time::sleep_until(self.next).await;
            let share = Duration::from_secs_f64(bytes as f64 / rate as f64);
            self.next = Instant::now() + share;
        }
        self.tensors = tensors;
        if self.given.len() == MAX_TAKERS {
            self.given.pop_first();
        }
        self.given.insert(to.clone(), Instant::now());
    }
}

/// Packets of tensors that have passed here.
fn tensors(fabric: &Fabric) -> u64 {
    let counters = fabric.counters();
    let both = |kind| counters.sent_of(kind).packets + counters.received_of(kind).packets;
    both(Kind::Activation) + both(Kind::Partial)
}
