//! How long a node's part of a round takes while decoding.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use halo_fabric::NodeId;
use serde::{Deserialize, Serialize};

/// Adds up over rounds of one row; of longer ones a group takes longer. The difference of two says what happened between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pace {
    pub(crate) rounds: u64,
    pub(crate) groups: u64,
    pub(crate) seconds: f64,
}

impl Pace {
    pub(crate) fn add(&mut self, groups: usize, took: Duration) {
        self.rounds += 1;
        self.groups += groups as u64;
        self.seconds += took.as_secs_f64();
    }

    /// What has happened since. A node that has begun anew has counted from nothing.
    pub(crate) fn since(self, before: Self) -> Self {
        if self.rounds < before.rounds {
            return self;
        }
        Self {
            rounds: self.rounds - before.rounds,
            groups: self.groups.saturating_sub(before.groups),
            seconds: self.seconds - before.seconds,
        }
    }

    /// Mean time of a round, in seconds.
    pub(crate) fn round(self) -> f64 {
        self.seconds / self.rounds.max(1) as f64
    }
}

/// By node.
#[derive(Debug, Default)]
pub(crate) struct Paces(Mutex<BTreeMap<NodeId, Pace>>);

impl Paces {
    /// Adds a node's part of a round.
    pub(crate) fn add(&self, node: &NodeId, groups: usize, took: Duration) {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match paces.get_mut(node) {
            Some(pace) => pace.add(groups, took),
            None => paces.entry(node.clone()).or_default().add(groups, took),
        }
    }

    pub(crate) fn of(&self, node: &NodeId) -> Pace {
        let paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paces.get(node).copied().unwrap_or_default()
    }

    /// Forgets other nodes than these.
    pub(crate) fn retain(&self, wanted: impl Fn(&NodeId) -> bool) {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paces.retain(|node, _| wanted(node));
    }
}
