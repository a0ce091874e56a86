//! Who is there: the nodes that hold a token, without those that have fallen silent.
//!
//! zenoh takes a node's token away when the connection to it has gone: because it has, or because a network that loses much has let
//! nothing through for a while. As long as the link for packets holds, such a node is cut off rather than gone: it counts as long as it is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::NodeId;
use crate::vigil::Finding;

/// The two sessions of a node that holds a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) control: String,
    pub(crate) data: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.control, self.data)
    }
}

impl FromStr for Holder {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (control, data) = text.split_once('-').ok_or(())?;
        Ok(Self {
            control: control.to_owned(),
            data: data.to_owned(),
        })
    }
}

/// A session's view of the cluster's members.
#[derive(Debug)]
pub(crate) struct Roster {
    state: Mutex<State>,
    members: watch::Sender<BTreeSet<NodeId>>,
}

#[derive(Debug, Default)]
struct State {
    /// Who holds a token of a name, and whether it is cut off: its token has gone, and the link for packets has not.
    holders: BTreeMap<NodeId, BTreeMap<Holder, bool>>,
    /// The sessions to which there are links for packets.
    linked: BTreeSet<String>,
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

    /// All that hold a token or are cut off, silent or not.
    pub(crate) fn announced(&self) -> Vec<NodeId> {
        self.lock().holders.keys().cloned().collect()
    }

    /// Whether a session for control has told of a token.
    pub(crate) fn has_heard_of(&self, control: &str) -> bool {
        let state = self.lock();
        let mut holders = state.holders.values().flat_map(BTreeMap::keys);
        holders.any(|holder| holder.control == control)
    }

    /// A session has announced itself by a name.
    pub(crate) fn announce(&self, node: &NodeId, holder: Holder) {
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

    /// A token has gone.
    pub(crate) fn withdraw(&self, node: &NodeId, holder: &Holder) {
        self.change(|state| {
            let State {
                holders, linked, ..
            } = state;
            let Some(holders) = holders.get_mut(node) else {
                return;
            };
            match holders.get_mut(holder) {
                Some(cut) if linked.contains(&holder.data) => *cut = true,
                _ => drop(holders.remove(holder)),
            }
            state.forget_the_gone();
        });
    }

    /// The link for packets to a session has come, or gone.
    pub(crate) fn set_linked(&self, session: String, linked: bool) {
        self.change(|state| {
            if linked {
                state.linked.insert(session);
                return;
            }
            state.linked.remove(&session);
            for holders in state.holders.values_mut() {
                holders.retain(|holder, cut| !*cut || holder.data != session);
            }
            state.forget_the_gone();
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

    /// Whether all that hold a name are cut off.
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

impl State {
    /// Forgets names that nobody holds.
    fn forget_the_gone(&mut self) {
        let Self {
            holders, silent, ..
        } = self;
        holders.retain(|node, holders| {
            if holders.is_empty() {
                silent.remove(node);
            }
            !holders.is_empty()
        });
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

    fn holder(number: u32) -> Holder {
        format!("{number}-d{number}").parse().unwrap()
    }

    #[test]
    fn the_silent_are_left_out_until_they_are_heard_or_begin_anew() {
        let roster = Roster::new();
        let (a, b): (NodeId, NodeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        roster.announce(&a, holder(1));
        roster.announce(&b, holder(2));
        assert_eq!(names(&roster), ["a", "b"]);
        roster.judge(&a, Finding::Silent);
        assert_eq!(names(&roster), ["b"]);
        assert_eq!(roster.announced(), [a.clone(), b.clone()]);
        roster.judge(&a, Finding::Alive);
        assert_eq!(names(&roster), ["a", "b"]);
        roster.judge(&a, Finding::Silent);
        roster.announce(&a, holder(1));
        assert_eq!(names(&roster), ["b"], "a token told of twice is no life");
        roster.announce(&a, holder(3));
        assert_eq!(names(&roster), ["a", "b"]);
        roster.withdraw(&a, &holder(1));
        roster.withdraw(&a, &holder(3));
        roster.judge(&a, Finding::Silent);
        roster.withdraw(&a, &holder(3));
        roster.announce(&a, holder(4));
        assert_eq!(names(&roster), ["a", "b"]);
    }

    #[test]
    fn who_is_cut_off_counts_until_it_is_silent_or_its_link_goes() {
        let roster = Roster::new();
        let a: NodeId = "a".parse().unwrap();
        roster.announce(&a, holder(1));
        roster.set_linked("d1".into(), true);
        assert!(!roster.is_cut(&a));
        roster.withdraw(&a, &holder(1));
        assert!(roster.is_cut(&a));
        assert_eq!(names(&roster), ["a"]);
        roster.judge(&a, Finding::Silent);
        assert_eq!(names(&roster), [""; 0]);
        roster.judge(&a, Finding::Alive);
        roster.announce(&a, holder(1));
        assert!(!roster.is_cut(&a), "it is back");
        roster.withdraw(&a, &holder(1));
        roster.announce(&a, holder(2));
        assert!(!roster.is_cut(&a), "another has its name");
        roster.set_linked("d1".into(), false);
        roster.withdraw(&a, &holder(2));
        assert_eq!(roster.announced(), [], "there was no link to it");
        // One whose link goes first is gone when its token is.
        roster.announce(&a, holder(1));
        roster.set_linked("d1".into(), false);
        assert_eq!(names(&roster), ["a"]);
        roster.withdraw(&a, &holder(1));
        assert_eq!(names(&roster), [""; 0]);
    }
}
