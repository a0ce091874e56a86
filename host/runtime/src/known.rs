//! What the planner knows of the cluster.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::Duration;

use halo_fabric::{CallError, NodeId};
use halo_policy::Device;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::calm::Calm;
use crate::messages::Profile;
use crate::pace::Pace;
use crate::plan::Plan;
use crate::trial::Trial;
use crate::watch::Watch;

/// How long a node that does not take its part is left out: at first, and at most.
const SHORTEST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(300);

/// Who is there, what they are like, and what was agreed on.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) alive: BTreeSet<NodeId>,
    /// Workers that were chosen to have a part. `None`: all of them.
    pub(crate) chosen: Option<BTreeSet<NodeId>>,
    pub(crate) profiles: BTreeMap<NodeId, Profile>,
    /// Nodes that are alive by their liveliness token but do not answer. They are asked until they do.
    pub(crate) suspects: BTreeSet<NodeId>,
    /// Nodes that did not take their part, and said why: from when on they are offered one again, and how long that was.
    pub(crate) unwilling: BTreeMap<NodeId, (Instant, Duration)>,
    /// When the first of them is.
    pub(crate) offer: Option<Instant>,
    /// Profiles that are asked for.
    pub(crate) asked: BTreeSet<NodeId>,
    pub(crate) questions: JoinSet<(NodeId, Result<Profile, CallError>)>,
    pub(crate) current: Option<Arc<Plan>>,
    /// The generation has given up a worker of the current plan, and needs a new epoch even if the worker is back.
    pub(crate) anew: bool,
    /// Nodes of all plans so far: a round may be under way on any of the last ones.
    pub(crate) planned: BTreeSet<NodeId>,
    pub(crate) epoch: u32,
    pub(crate) watch: Watch,
    /// The devices as the scheduler was told of them last.
    pub(crate) described: Vec<Device>,
    /// Answers that are waited for, of how fast workers compute.
    pub(crate) looks: JoinSet<BTreeMap<NodeId, Result<Pace, CallError>>>,
    /// When to follow what has changed of them.
    pub(crate) calm: Calm,
    /// The next placement is made for no other reason.
    pub(crate) following: bool,
    /// The current one was made for no other reason.
    pub(crate) trial: Option<Trial>,
    /// The placement to go back to.
    pub(crate) back: Option<Arc<Plan>>,
    /// A placement has been in the making since the last look: loading it takes the time of those that compute, so that rounds say
    /// nothing of what they are like.
    pub(crate) unsettled: bool,
    /// Rounds that the leader had computed at the last look.
    pub(crate) looked: u64,
}

impl Known {
    /// Whether a node cannot have a part in a placement.
    pub(crate) fn is_out(&self, node: &NodeId) -> bool {
        let chosen = self.chosen.as_ref();
        !self.alive.contains(node)
            || chosen.is_some_and(|chosen| !chosen.contains(node))
            || self.suspects.contains(node)
            || self
                .unwilling
                .get(node)
                .is_some_and(|(until, _)| *until > Instant::now())
    }

    /// A node does not take its part now. It may later: what other leaders hold may be free then.
    pub(crate) fn unwilling(&mut self, node: NodeId) {
        let entry = self.unwilling.entry(node);
        let wait = match &entry {
            Entry::Occupied(entry) => (2 * entry.get().1).min(LONGEST_REST),
            Entry::Vacant(_) => SHORTEST_REST,
        };
        entry.insert_entry((Instant::now() + wait, wait));
        self.plan_offer();
    }

    pub(crate) fn plan_offer(&mut self) {
        let now = Instant::now();
        let times = self.unwilling.values().map(|(until, _)| *until);
        self.offer = times.filter(|until| *until > now).min();
    }

    /// Whether any of a placement's workers is out. Of `devices` the first is this node.
    pub(crate) fn lacks(&self, devices: &[NodeId]) -> bool {
        devices.iter().skip(1).any(|d| self.is_out(d))
    }

    pub(crate) fn forget_the_dead(&mut self, own: &NodeId) {
        let alive = &self.alive;
        self.profiles.retain(|node, _| alive.contains(node));
        self.suspects.retain(|node| alive.contains(node));
        self.unwilling.retain(|node, _| alive.contains(node));
        let profiles = &self.profiles;
        self.watch
            .retain(|node| node == own || profiles.contains_key(node));
    }
}
