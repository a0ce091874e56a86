//! Activations that workers may have missed, though their round is over.
//!
//! A worker that has not had an attention's activation has nothing at its positions in that layer's KV cache. It leaves them out
//! until it has had it; so that it will, it is sent the activation again, beside later rounds, until it answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use halo_fabric::{Header, NodeId, Place};

use crate::outgoing::Sent;

/// Activations that are kept at most, so that memory is bounded. What is older stays a hole.
const MOST: usize = 512;

/// Between two sendings.
const AGAIN: Duration = Duration::from_millis(10);

/// One worker's, each.
#[derive(Debug, Default)]
pub(crate) struct Missed(Mutex<VecDeque<One>>);

#[derive(Debug)]
struct One {
    sent: Arc<Sent>,
    recipient: usize,
    texts: Vec<u32>,
    due: Instant,
}

impl Missed {
    /// A recipient has not answered.
    pub(crate) fn note(&self, sent: &Arc<Sent>, recipient: usize, places: &[Place]) {
        let mut missed = self.lock();
        if missed.len() >= MOST {
            missed.pop_front();
        }
        missed.push_back(One {
            sent: Arc::clone(sent),
            recipient,
            texts: places.iter().map(|place| place.text).collect(),
            due: Instant::now() + AGAIN,
        });
    }

    /// Takes a packet's word that its activation has come. True if that was not known.
    pub(crate) fn has_come(&self, from: &NodeId, header: &Header) -> bool {
        let mut missed = self.lock();
        let before = missed.len();
        missed.retain(|one| !(one.sent.is_of(header) && one.sent.node(one.recipient) == from));
        missed.len() < before
    }

    /// What a worker is to be sent again now: the oldest, if that has not just been sent.
    pub(crate) fn due(&self, node: &NodeId) -> Option<(Arc<Sent>, usize)> {
        let mut missed = self.lock();
        let one = missed
            .iter_mut()
            .find(|one| one.sent.node(one.recipient) == node)?;
        let now = Instant::now();
        if now < one.due {
            return None;
        }
        one.due = now + AGAIN;
        Some((Arc::clone(&one.sent), one.recipient))
    }

    /// The activation of a round.
    pub(crate) fn find(&self, header: &Header) -> Option<Arc<Sent>> {
        let missed = self.lock();
        let one = missed.iter().find(|one| one.sent.is_of(header))?;
        Some(Arc::clone(&one.sent))
    }

    /// Forgets what is of no text under way.
    pub(crate) fn retain(&self, texts: &[Place]) {
        let is_under_way = |text: &u32| texts.iter().any(|place| place.text == *text);
        self.lock().retain(|one| one.texts.iter().any(is_under_way));
    }

    /// Forgets everything: under another placement, nobody would know what it is.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
