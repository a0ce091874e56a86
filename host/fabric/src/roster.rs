//! Who is there: the nodes that hold a token, without those that have fallen silent.
//!
//! zenoh takes a dead node's token away when the last link to it has gone, and a link over UDP goes only when a lease has
//! expired. A node whose reliable link has been cut and which says nothing any more is gone long before that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::NodeId;
use crate::vigil::Finding;

/// A session's view of the cluster's members.
#[derive(Debug)]
pub(crate) struct Roster {
    state: Mutex<State>,
    members: watch::Sender<BTreeSet<NodeId>>,
}

#[derive(Debug, Default)]
struct State {
    /// The sessions that hold a token of a name, and whether the reliable link to each has gone.
    holders: BTreeMap<NodeId, BTreeMap<String, bool>>,
    /// Names whose holders neither say nor answer anything.
    silent: BTreeSet<NodeId>,
}

impl Roster {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            members: watch::Sender::default(),
        }
    }

    /// The members, and every change of them.
    pub(crate) fn members(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.members.subscribe()
    }

    /// All that hold a token, silent or not.
    pub(crate) fn announced(&self) -> Vec<NodeId> {
        self.lock().holders.keys().cloned().collect()
    }

    /// A session has announced itself by a name.
    pub(crate) fn announce(&self, node: &NodeId, holder: String) {
        self.change(|state| {
            let holders = state.holders.entry(node.clone()).or_default();
            // Whoever begins anew is not silent.
            if holders.insert(holder, false).is_none() {
                state.silent.remove(node);
            }
            if holders.values().filter(|cut| !**cut).count() > 1 {
                tracing::error!(%node, "two nodes have this name; stop one of them");
            }
        });
    }

    /// A session's token has gone.
    pub(crate) fn withdraw(&self, node: &NodeId, holder: &str) {
        self.change(|state| {
            let Some(holders) = state.holders.get_mut(node) else {
                return;
            };
            holders.remove(holder);
            if holders.is_empty() {
                state.holders.remove(node);
                state.silent.remove(node);
            }
        });
    }

    /// Takes in whether a node is alive.
    pub(crate) fn judge(&self, node: &NodeId, finding: Finding) {
        match finding {
            Finding::Silent => self.change(|state| {
                if state.holders.contains_key(node) && state.silent.insert(node.clone()) {
                    tracing::warn!(%node, "neither says nor answers anything, so it counts as dead");
                }
            }),
            Finding::Alive => self.change(|state| {
                if state.silent.remove(node) {
                    tracing::info!(%node, "heard again");
                }
            }),
            Finding::Ask | Finding::Wait => {}
        }
    }

    /// The reliable link to a session has gone, or come.
    pub(crate) fn set_cut(&self, session: &str, cut: bool) {
        for holders in self.lock().holders.values_mut() {
            if let Some(holder) = holders.get_mut(session) {
                *holder = cut;
            }
        }
    }

    /// Whether the reliable links to all sessions of a name have gone.
    pub(crate) fn is_cut(&self, node: &NodeId) -> bool {
        let state = self.lock();
        let holders = state.holders.get(node);
        holders.is_some_and(|holders| holders.values().all(|cut| *cut))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let names = state.holders.keys().filter(|n| !state.silent.contains(*n));
        let names: BTreeSet<NodeId> = names.cloned().collect();
        // Sent under the lock, so that views are published in their order.
        self.members.send_if_modified(|members| {
            let changed = *members != names;
            *members = names;
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(roster: &Roster) -> Vec<String> {
        let members = roster.members();
        let members = members.borrow();
        members.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_silent_are_left_out_until_they_are_heard_or_begin_anew() {
        let roster = Roster::new();
        let (a, b): (NodeId, NodeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        roster.announce(&a, "1".into());
        roster.announce(&b, "2".into());
        assert_eq!(names(&roster), ["a", "b"]);
        roster.judge(&a, Finding::Silent);
        assert_eq!(names(&roster), ["b"]);
        assert_eq!(roster.announced(), [a.clone(), b.clone()]);
        roster.judge(&a, Finding::Alive);
        assert_eq!(names(&roster), ["a", "b"]);
        roster.judge(&a, Finding::Silent);
        roster.announce(&a, "1".into());
        assert_eq!(names(&roster), ["b"], "a token told of twice is no life");
        roster.announce(&a, "3".into());
        assert_eq!(names(&roster), ["a", "b"]);
        roster.withdraw(&a, "1");
        roster.withdraw(&a, "3");
        roster.judge(&a, Finding::Silent);
        roster.withdraw(&a, "3");
        roster.announce(&a, "4".into());
        assert_eq!(names(&roster), ["a", "b"]);
    }

    #[test]
    fn a_name_is_cut_off_when_all_its_sessions_are() {
        let roster = Roster::new();
        let a: NodeId = "a".parse().unwrap();
        roster.set_cut("1", true);
        assert!(!roster.is_cut(&a), "nobody has that name");
        roster.announce(&a, "1".into());
        assert!(!roster.is_cut(&a));
        roster.announce(&a, "2".into());
        roster.set_cut("1", true);
        assert!(!roster.is_cut(&a));
        roster.withdraw(&a, "2");
        assert!(roster.is_cut(&a));
        roster.set_cut("1", false);
        assert!(!roster.is_cut(&a));
    }
}
