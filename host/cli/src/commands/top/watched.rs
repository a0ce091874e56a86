//! What looks at a cluster say together: how fast it is, and who has gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use halo_fabric::NodeId;
use halo_policy::Kind;
use halo_runtime::{Generating, Loading, Planned, PolicyState, Profile};

use crate::output;

use super::look::Look;

/// How far back speeds look: a token may take seconds.
const WINDOW: Duration = Duration::from_secs(10);

/// How long a node that has gone is shown.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Speeds that are remembered, to be drawn.
const SPEEDS: usize = 200;

/// What is known from earlier looks.
#[derive(Debug, Default)]
pub(super) struct Watched {
    seen: BTreeMap<NodeId, Instant>,
    leaders: BTreeMap<NodeId, Followed>,
}

/// A leader's account at the last looks, and its speeds in tokens per second.
#[derive(Debug, Default)]
struct Followed {
    accounts: VecDeque<(Instant, Generating)>,
    speeds: VecDeque<f64>,
}

/// What there is to show.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) nodes: Vec<Node>,
    pub(super) leaders: Vec<Leading>,
    /// The policies in force, in words.
    pub(super) policies: Vec<String>,
}

/// A node that is there or was lately.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: NodeId,
    pub(super) state: State,
    pub(super) profile: Option<Profile>,
    pub(super) loading: Option<Loading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Leads,
    /// It could lead, and computes for nobody.
    Leader,
    Works,
    /// It could work, and nobody has given it anything to do.
    Idle,
    /// It is a member and does not answer.
    Silent,
    /// It was a member so many seconds ago.
    Gone(u64),
}

/// A node that leads.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) name: NodeId,
    pub(super) plan: Planned,
    /// Generations under way.
    pub(super) under_way: usize,
    /// Tokens per second lately, and at each look before, the latest last.
    pub(super) speed: f64,
    pub(super) speeds: Vec<f64>,
    /// Of the partials lately: the shares that were asked for again, and of which something was concealed.
    pub(super) asked_again: f64,
    pub(super) concealed: f64,
}

impl Watched {
    /// Takes in a look.
    pub(super) fn update(&mut self, look: Look, now: Instant) -> View {
        let members = look.profiles.keys();
        self.seen.extend(members.map(|name| (name.clone(), now)));
        self.seen.retain(|_, last| now - *last <= REMEMBERED);
        self.leaders.retain(|name, _| look.plans.contains_key(name));
        let parts = look.plans.values().flat_map(|plan| &plan.devices);
        let working: BTreeSet<&NodeId> = parts.filter(|d| d.groups > 0).map(|d| &d.node).collect();
        let nodes = self.seen.iter().map(|(name, last)| {
            let profile = look.profiles.get(name);
            let state = match profile {
                None => State::Gone((now - *last).as_secs()),
                Some(None) => State::Silent,
                Some(Some(_)) if look.plans.contains_key(name) => State::Leads,
                Some(Some(profile)) if !profile.serves => State::Leader,
                Some(Some(_)) if working.contains(name) => State::Works,
                Some(Some(_)) => State::Idle,
            };
            Node {
                name: name.clone(),
                state,
                profile: profile.cloned().flatten(),
                loading: look.loading.get(name).copied(),
            }
        });
        let nodes = nodes.collect();
        let policies = in_force(&look.policies);
        let leaders = look.plans.into_iter().map(|(name, plan)| {
            let account = look.generating.get(&name).copied().unwrap_or_default();
            let followed = self.leaders.entry(name.clone()).or_default();
            followed.update(account, now);
            followed.leading(name, plan)
        });
        View {
            leaders: leaders.collect(),
            nodes,
            policies,
        }
    }
}

impl Followed {
    fn update(&mut self, account: Generating, now: Instant) {
        // Another process of that name counts from the beginning.
        let last = self.accounts.back();
        if last.is_some_and(|(_, last)| account.tokens < last.tokens) {
            self.accounts.clear();
        }
        self.accounts.push_back((now, account));
        while self.accounts.len() > 2 && now - self.accounts[0].0 > WINDOW {
            self.accounts.pop_front();
        }
        if self.accounts.len() > 1 {
            if self.speeds.len() == SPEEDS {
                self.speeds.pop_front();
            }
            self.speeds.push_back(self.speed());
        }
    }

    /// What a figure has grown by, and in how many seconds.
    fn growth(&self, figure: impl Fn(&Generating) -> u64) -> (f64, f64) {
        let (Some((begin, before)), Some((end, after))) =
            (self.accounts.front(), self.accounts.back())
        else {
            return (0.0, 0.0);
        };
        // A node may say anything.
        let growth = figure(after).saturating_sub(figure(before));
        (growth as f64, (*end - *begin).as_secs_f64())
    }

    fn speed(&self) -> f64 {
        let (tokens, seconds) = self.growth(|account| account.tokens);
        tokens / seconds.max(f64::MIN_POSITIVE)
    }

    fn leading(&self, name: NodeId, plan: Planned) -> Leading {
        let (partials, _) = self.growth(|account| account.counts.partials);
        let share = |figure: fn(&Generating) -> u64| self.growth(figure).0 / partials.max(1.0);
        Leading {
            name,
            plan,
            under_way: self.accounts.back().map_or(0, |(_, last)| last.under_way),
            speed: self.speed(),
            speeds: self.speeds.iter().copied().collect(),
            asked_again: share(|account| account.counts.asked_again),
            concealed: share(|account| account.counts.concealed_partials),
        }
    }
}

/// The policies in force: one line for each, and for each kind but one if the nodes agree.
fn in_force(states: &BTreeMap<NodeId, PolicyState>) -> Vec<String> {
    let mut lines = Vec::new();
    for kind in [Kind::Scheduler, Kind::Predictor] {
        let mut found = BTreeMap::<_, (Vec<&str>, u64)>::new();
        for (node, state) in states {
            let Some(now) = state.history(kind).last() else {
                continue;
            };
            let digest = now.digest.map(|digest| digest.short());
            let (nodes, faults) = found.entry((&now.name, digest)).or_default();
            nodes.push(node.as_str());
            *faults += now.faults;
        }
        let agreed = found.len() == 1;
        for ((name, digest), (nodes, faults)) in found {
            let digest = digest.map_or(String::new(), |digest| format!(" ({digest})"));
            let nodes = match nodes.len() {
                1 => nodes[0].to_owned(),
                count if agreed => format!("all {count} nodes"),
                _ => nodes.join(", "),
            };
            let faults = match output::faults(faults) {
                none if none.is_empty() => none,
                some => format!(", {some}"),
            };
            lines.push(format!("{kind} {name}{digest} on {nodes}{faults}"));
        }
    }
    lines
}
