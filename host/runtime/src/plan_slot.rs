//! Where the planner leaves a new plan and the generation finds it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use halo_engine::{AttentionHeads, FeedForward};
use halo_fabric::NodeId;
use tokio::sync::mpsc;

use crate::pace::Paces;
use crate::passes::Passes;
use crate::plan::Plan;

/// A plan that every worker in it has agreed to, with this node's own part of it loaded.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) feed_forward: FeedForward,
    /// Where attention is shared.
    pub(crate) heads: Option<AttentionHeads>,
}

/// What planner and generation tell each other.
#[derive(Debug)]
pub(crate) struct PlanSlot {
    state: Mutex<State>,
    changed: Condvar,
    /// Rises with every change, so that a round need not take the lock to see that there is none.
    version: AtomicU64,
    suspects: mpsc::UnboundedSender<NodeId>,
    /// How long this node's part of the generation's rounds has taken, and how long the workers' answers were under way.
    pub(crate) paces: Paces,
    /// How long a token has taken lately.
    pub(crate) passes: Passes,
}

#[derive(Debug, Default)]
struct State {
    prepared: Option<Prepared>,
    /// The epoch of the plan that the generation took last.
    in_force: Option<u32>,
    /// Nodes that are known not to answer, until the planner finds otherwise.
    gone: BTreeSet<NodeId>,
    /// Why there will be no further plan.
    ended: Option<String>,
}

impl State {
    fn take(&mut self) -> Option<Prepared> {
        let prepared = self.prepared.take()?;
        self.in_force = Some(prepared.plan.epoch);
        Some(prepared)
    }
}

impl PlanSlot {
    /// An empty slot, and where suspicions arrive.
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<NodeId>) {
        let (suspects, receiver) = mpsc::unbounded_channel();
        let slot = Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            version: AtomicU64::new(0),
            suspects,
            paces: Paces::default(),
            passes: Passes::default(),
        };
        (Arc::new(slot), receiver)
    }

    /// The planner has a new plan. One that was not yet taken is forgotten.
    pub(crate) fn put(&self, prepared: Prepared) {
        self.change(|state| state.prepared = Some(prepared));
    }

    /// The planner knows who is gone.
    pub(crate) fn set_gone(&self, gone: BTreeSet<NodeId>) {
        if self.lock().gone != gone {
            self.change(|state| state.gone = gone);
        }
    }

    /// The planner ends.
    pub(crate) fn end(&self, why: String) {
        self.change(|state| state.ended = Some(why));
    }

    /// The generation suspects a worker.
    pub(crate) fn suspect(&self, worker: &NodeId) {
        // Without a planner there is nobody to tell, and waiting for a plan says so.
        let _ = self.suspects.send(worker.clone());
    }

    /// Why the planner ended, if it did.
    pub(crate) fn ended(&self) -> Option<String> {
        self.lock().ended.clone()
    }

    /// Changes whenever anything in the slot does.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The new plan, if there is one.
    pub(crate) fn take(&self) -> Option<Prepared> {
        self.lock().take()
    }

    /// The epoch of the plan that the generation is on, once it is on one.
    pub(crate) fn in_force(&self) -> Option<u32> {
        self.lock().in_force
    }

    /// Whether a worker is known to be gone.
    pub(crate) fn is_gone(&self, worker: &NodeId) -> bool {
        self.lock().gone.contains(worker)
    }

    /// Waits for a new plan. The error says why there is none.
    pub(crate) fn wait(&self, patience: Duration) -> Result<Prepared, String> {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(prepared) = state.take() {
                return Ok(prepared);
            }
            if let Some(why) = &state.ended {
                return Err(why.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("none was ready within {} s", patience.as_secs()));
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.version.fetch_add(1, Ordering::Release);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
