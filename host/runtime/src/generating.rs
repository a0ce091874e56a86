//! What a node is generating, for whoever watches.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::telemetry::Counts;

/// What a node generates as the leader of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generating {
    /// Generations that are under way.
    pub under_way: usize,
    /// Tokens that it has generated since it began to lead, in all generations.
    pub tokens: u64,
    /// What happened on the network meanwhile.
    pub counts: Counts,
}

/// Where a generator writes it and the control plane reads it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account(Arc<Mutex<Generating>>);

impl Account {
    pub(crate) fn read(&self) -> Generating {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes that so many generations are under way and so many more tokens were generated.
    pub(crate) fn write(&self, under_way: usize, tokens: usize, counts: Counts) {
        let mut generating = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generating.under_way = under_way;
        generating.tokens += tokens as u64;
        generating.counts = counts;
    }
}
