//! The place of the policy in force: exchange between two calls, counting of faults, rollback, history.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use serde::Serialize;

use crate::{
    Cause, Change, Digest, Fault, Kind, builtin,
    instance::{Policy, Start},
};

/// Policies that are kept running to roll back to.
const KEPT: usize = 4;
/// Changes that are remembered.
const REMEMBERED: usize = 32;

/// What is in force in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Active {
    /// The policy's name, or [`builtin::NAME`].
    pub name: String,
    /// The digest of its bytes; `None` for the built-in rule.
    pub digest: Option<Digest>,
    /// The version of `halo:policy` it was built for; `None` for the built-in rule.
    pub version: Option<String>,
    /// Since when.
    pub since: SystemTime,
    /// Calls without a usable result since the slot was made, of all policies together.
    pub faults: u64,
    /// How often the slot went back to an earlier policy because of faults.
    pub rollbacks: u64,
}

/// Holds the policy in force. `None` is the built-in rule.
pub(crate) struct Slot<S: Start> {
    kind: Kind,
    strikes: u32,
    current: ArcSwapOption<Policy<S>>,
    past: Mutex<Past<S>>,
    faults: AtomicU64,
}

/// Changed only together with `current`, so its lock orders exchanges.
struct Past<S: Start> {
    /// Policies that were in force and well, the latest last.
    healthy: Vec<Arc<Policy<S>>>,
    history: VecDeque<(Instant, Change)>,
    since: SystemTime,
    rollbacks: u64,
}

impl<S: Start> Slot<S> {
    pub(crate) fn new(kind: Kind, strikes: u32) -> Self {
        let mut past = Past {
            healthy: Vec::new(),
            history: VecDeque::new(),
            since: SystemTime::now(),
            rollbacks: 0,
        };
        past.note(None, Cause::Started, None);
        Self {
            kind,
            strikes: strikes.max(1),
            current: ArcSwapOption::empty(),
            past: Mutex::new(past),
            faults: AtomicU64::new(0),
        }
    }

    /// The policy to call now. A caller goes on with it, whatever is put in force meanwhile.
    pub(crate) fn current(&self) -> Option<Arc<Policy<S>>> {
        self.current.load_full()
    }

    /// Puts `policy` in force from the next call on. `None` is the built-in rule.
    pub(crate) fn replace(&self, policy: Option<Policy<S>>, cause: Cause) {
        let mut past = self.past();
        let policy = policy.map(Arc::new);
        let old = self.current.swap(policy.clone());
        match cause {
            // Whoever went back from a policy does not want it back when the earlier one fails.
            Cause::RolledBack => past.forget_from(policy.as_deref()),
            _ => past.healthy.extend(old.filter(|old| old.is_healthy())),
        }
        if past.healthy.len() > KEPT {
            past.healthy.remove(0);
        }
        past.note(policy.as_deref(), cause, None);
        let active = self.describe(&past);
        tracing::info!(policy = %active.name, digest = ?active.digest.map(|digest| digest.short()), "{} in force", self.kind);
    }

    /// Takes note of how a call of `policy` went, and rolls back after too many faults.
    pub(crate) fn settle<T>(
        &self,
        policy: &Arc<Policy<S>>,
        outcome: Result<T, Fault>,
    ) -> Result<T, Fault> {
        match &outcome {
            Ok(_) => policy.praise(),
            Err(fault) => {
                self.faults.fetch_add(1, Ordering::Relaxed);
                self.past().count_fault(policy.digest);
                if fault.reason.is_misbehaviour() {
                    let (strikes, first) = policy.strike();
                    if strikes >= self.strikes {
                        self.roll_back(policy, fault);
                    } else if first {
                        tracing::warn!("{fault}; the built-in rule answers instead");
                    } else {
                        tracing::debug!("{fault}");
                    }
                } else {
                    tracing::debug!("{fault}");
                }
            }
        }
        outcome
    }

    pub(crate) fn active(&self) -> Active {
        self.describe(&self.past())
    }

    /// What has been in force, oldest first; the last is in force now.
    pub(crate) fn history(&self) -> Vec<Change> {
        let past = self.past();
        let aged = past.history.iter().map(|(at, change)| Change {
            seconds_ago: at.elapsed().as_secs(),
            ..change.clone()
        });
        aged.collect()
    }

    fn roll_back(&self, culprit: &Arc<Policy<S>>, fault: &Fault) {
        let mut past = self.past();
        let current = self.current.load();
        if !current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, culprit))
        {
            // Another call's fault was first, or a new policy is in force already.
            return;
        }
        let previous = past.healthy.pop();
        if let Some(previous) = &previous {
            previous.forgive();
        }
        let name = previous
            .as_ref()
            .map_or(builtin::NAME, |policy| &policy.name)
            .to_owned();
        past.note(previous.as_deref(), Cause::Faults, Some(fault.to_string()));
        self.current.store(previous);
        past.rollbacks += 1;
        tracing::warn!(
            "{fault}; after {} such faults the {} goes back from {:?} to {name:?}",
            self.strikes,
            self.kind,
            culprit.name
        );
    }

    fn describe(&self, past: &Past<S>) -> Active {
        let current = self.current.load();
        let policy = current.as_ref();
        Active {
            name: policy
                .map_or(builtin::NAME, |policy| &policy.name)
                .to_owned(),
            digest: policy.map(|policy| policy.digest),
            version: policy.map(|policy| policy.version.to_string()),
            since: past.since,
            faults: self.faults.load(Ordering::Relaxed),
            rollbacks: past.rollbacks,
        }
    }

    fn past(&self) -> MutexGuard<'_, Past<S>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Start> Past<S> {
    /// Enters a change into the history.
    fn note(&mut self, policy: Option<&Policy<S>>, cause: Cause, fault: Option<String>) {
        self.since = SystemTime::now();
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        let change = Change {
            name: policy
                .map_or(builtin::NAME, |policy| &policy.name)
                .to_owned(),
            digest: policy.map(|policy| policy.digest),
            settings: policy.map_or_else(Vec::new, |policy| policy.settings().to_vec()),
            cause,
            fault,
            faults: 0,
            seconds_ago: 0,
        };
        self.history.push_back((Instant::now(), change));
    }

    /// Counts a fault where its policy came into force last.
    fn count_fault(&mut self, digest: Digest) {
        let mut changes = self.history.iter_mut().rev();
        if let Some((_, change)) = changes.find(|(_, change)| change.digest == Some(digest)) {
            change.faults += 1;
        }
    }

    /// Forgets the policies that were in force since `policy` was, with its earlier instance.
    fn forget_from(&mut self, policy: Option<&Policy<S>>) {
        let same = |old: &Arc<Policy<S>>| {
            policy.is_some_and(|policy| {
                old.digest == policy.digest && old.settings() == policy.settings()
            })
        };
        let from = self.healthy.iter().rposition(same).unwrap_or(0);
        self.healthy.truncate(from);
    }
}
