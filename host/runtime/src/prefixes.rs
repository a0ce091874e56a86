use std::collections::VecDeque;

use halo_engine::KvCache;
use halo_models::Shape;

use crate::sequence::Computed;

/// Generations that have ended, whose KV caches new ones may begin with.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    /// The latest last.
    kept: VecDeque<Computed>,
}

/// How many tokens two texts have in common at their beginning.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    /// Keeps what a generation has computed, and forgets the oldest until all take no more than `bytes`.
    pub(crate) fn keep(&mut self, computed: Computed, shape: &Shape, bytes: u64) {
        // One that the new one begins with has nothing to add.
        self.kept
            .retain(|k| common(&k.tokens, &computed.tokens) < k.tokens.len());
        self.kept.push_back(computed);
        while self.bytes(shape) > bytes {
            self.forget_oldest();
        }
    }

    /// Frees the memory of the oldest. False if there is none.
    pub(crate) fn forget_oldest(&mut self) -> bool {
        self.kept.pop_front().is_some()
    }

    /// What is kept.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u32], &KvCache)> {
        self.kept.iter().map(|k| (&k.tokens[..], &k.cache))
    }

    fn bytes(&self, shape: &Shape) -> u64 {
        let bytes = |k: &Computed| KvCache::bytes(shape, k.cache.room());
        self.kept.iter().map(bytes).sum()
    }
}
