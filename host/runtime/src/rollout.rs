//! Policies across a cluster: given to every node, tried everywhere before they come into force anywhere, gone back from, and
//! taken over by nodes that were away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use halo_fabric::{CallError, Fabric, NodeId};
use halo_policy::{Cause, Change, Digest, Inspection, Kind, Recording, before};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::cluster::{PATIENCE, ask_all};
use crate::messages::{
    self, Activate, Choice, Fetch, Piece, PolicyList, PolicyState, Push, Pushed,
};
use crate::pieces::{Hex, piece_of};
use crate::policies::Policies;

/// Compiling and trying a policy takes a while on a Raspberry Pi.
const TRIAL_PATIENCE: Duration = Duration::from_secs(30);

/// How long after a node came into sight it is asked whether there is something to take over. Several come at once.
const SETTLE: Duration = Duration::from_millis(500);

/// How often a node asks though nobody has come: its own answer to a change may have come too late.
const LOOK_PERIOD: Duration = Duration::from_secs(30);

/// No component is larger, whoever says so.
const MAX_COMPONENT: u64 = 64 << 20;

/// What came of something at each node.
pub type Answers<T> = BTreeMap<NodeId, Result<T, RolloutError>>;

/// Why something was not done at a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// The node refused, or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It has the component only until it ends.
    #[error("{node} has it in memory only: {reason}")]
    Unsaved {
        /// The node.
        node: NodeId,
        /// Why it could not be saved.
        reason: String,
    },
    /// Another node refused, so this one was left as it was.
    #[error("{node} would take it, but stays with what it has, since {} would not", names(.refused_by))]
    HeldBack {
        /// The node.
        node: NodeId,
        /// Who refused.
        refused_by: Vec<NodeId>,
    },
}

/// Why a cluster cannot go back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoWayBack {
    /// Nobody told what is in force.
    #[error("no node said what it has in force")]
    Silent,
    /// The cluster began with what it has.
    #[error("no {kind} was in force before {now:?}; `halo policy activate` puts another in force")]
    Nothing {
        /// Of this kind.
        kind: Kind,
        /// What is in force.
        now: String,
    },
    /// What is asked for never was in force.
    #[error(
        "{wanted:?} is no {kind} that was in force; `halo policy history` shows those that were, and `halo policy activate` puts others in force"
    )]
    Unknown {
        /// Of this kind.
        kind: Kind,
        /// A name or the beginning of a digest.
        wanted: String,
    },
}

/// Members have different policies under one name.
#[derive(Debug, thiserror::Error)]
#[error("nodes have different policies called {wanted:?}: {found}; name one by its digest")]
pub struct NotTheSame {
    /// The name asked for.
    wanted: String,
    /// Who has which.
    found: String,
}

/// Which policies the members have.
pub async fn lists(fabric: &Fabric) -> BTreeMap<NodeId, Result<PolicyList, CallError>> {
    ask_all(fabric, messages::POLICY_LIST, &(), PATIENCE).await
}

/// Which policies the members have in force, and had.
pub async fn states(fabric: &Fabric) -> BTreeMap<NodeId, Result<PolicyState, CallError>> {
    ask_all(fabric, messages::POLICY_STATE, &(), PATIENCE).await
}

/// What the members say about the policy that each of them has under a name or digest.
pub async fn inspections(
    fabric: &Fabric,
    policy: &str,
) -> BTreeMap<NodeId, Result<Inspection, CallError>> {
    let policy = policy.to_owned();
    ask_all(fabric, messages::POLICY_INSPECT, &policy, TRIAL_PATIENCE).await
}

/// What the members' policies were asked last.
pub async fn recordings(fabric: &Fabric) -> BTreeMap<NodeId, Result<Recording, CallError>> {
    ask_all(fabric, messages::POLICY_RECORDING, &(), PATIENCE).await
}

/// The policy that the members have under a name or digest, with its component. Nothing if no member has it.
///
/// # Errors
///
/// Members have different ones.
pub async fn find(
    fabric: &Fabric,
    wanted: &str,
) -> Result<Option<(Inspection, Vec<u8>)>, NotTheSame> {
    let answers = inspections(fabric, wanted).await;
    let found: Vec<(&NodeId, &Inspection)> = answers
        .iter()
        .filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)))
        .collect();
    let Some((_, first)) = found.first() else {
        return Ok(None);
    };
    if found.iter().any(|(_, other)| other.digest != first.digest) {
        let each = found
            .iter()
            .map(|(node, policy)| format!("{} on {node}", policy.digest.short()));
        return Err(NotTheSame {
            wanted: wanted.to_owned(),
            found: each.collect::<Vec<_>>().join(", "),
        });
    }
    for (node, policy) in &found {
        match fetch(fabric, node, policy.digest).await {
            Ok(component) => return Ok(Some(((*policy).clone(), component))),
            Err(error) => warn!(policy = policy.name, %node, "not fetched: {error}"),
        }
    }
    Ok(None)
}

/// Gives a component to every member, which compiles it and keeps it.
pub async fn push(fabric: &Fabric, name: &str, component: &[u8]) -> Answers<()> {
    let answers = push_to_all(fabric, name, component).await;
    let answers = answers.into_iter().map(|(node, answer)| {
        let answer = match answer {
            Ok(Some(reason)) => Err(RolloutError::Unsaved {
                node: node.clone(),
                reason,
            }),
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        };
        (node, answer)
    });
    answers.collect()
}

/// Gives a component to every member that does not have it; has all of them try the choice; and if none refuses, puts it in
/// force on all that answered. Those that did not catch up later.
pub async fn activate(fabric: &Fabric, choice: &Choice, component: &[u8]) -> Answers<()> {
    let pushed = push_to_all(fabric, &choice.name, component).await;
    let pushed = pushed.into_iter().map(|(node, a)| (node, a.map(drop)));
    put_in_force(fabric, choice, false, pushed.collect()).await
}

/// Has every member go back: to what was in force before the `kind` that is now, or to the one with a name or digest that was
/// in force once.
///
/// # Errors
///
/// There is nothing to go back to. What each member made of it is in the answers.
pub async fn roll_back(
    fabric: &Fabric,
    kind: Kind,
    to: Option<&str>,
) -> Result<(Choice, Answers<()>), NoWayBack> {
    let states = states(fabric).await;
    let answered = || {
        let answered = states.iter();
        answered.filter_map(|(node, state)| Some((node, state.as_ref().ok()?)))
    };
    // Of those that know of the latest change, the one that has been there longest.
    let latest =
        answered().max_by_key(|(_, state)| (state.sequence.of(kind), state.history(kind).len()));
    let (node, latest) = latest.ok_or(NoWayBack::Silent)?;
    let target = target(kind, latest.history(kind), to)?;
    let choice = Choice {
        kind,
        name: target.name.clone(),
        digest: target.digest,
        settings: target.settings.clone(),
    };
    let mut pushed = BTreeMap::new();
    if let Some(digest) = choice.digest {
        // Nodes that came later may never have had it. Those that have it do not need it.
        match fetch(fabric, node, digest).await {
            Ok(component) => pushed = push_to_all(fabric, &choice.name, &component).await,
            Err(error) => warn!(policy = choice.name, %node, "not fetched: {error}"),
        }
    }
    let pushed = pushed.into_iter().map(|(node, a)| (node, a.map(drop)));
    let answers = put_in_force(fabric, &choice, true, pushed.collect()).await;
    Ok((choice, answers))
}

fn target<'a>(
    kind: Kind,
    history: &'a [Change],
    to: Option<&str>,
) -> Result<&'a Change, NoWayBack> {
    let Some(wanted) = to else {
        return before(history).ok_or_else(|| NoWayBack::Nothing {
            kind,
            now: history.last().map_or_else(String::new, |c| c.name.clone()),
        });
    };
    let digest = |change: &Change| change.digest.is_some_and(|d| d.begins_with(wanted));
    let mut changes = history.iter().rev().skip(1);
    changes
        .find(|change| change.name == wanted || digest(change))
        .ok_or_else(|| NoWayBack::Unknown {
            kind,
            wanted: wanted.to_owned(),
        })
}

/// Has every member try a choice, and puts it in force if none refuses. Members that refused it before, or did not answer
/// then, are not asked.
async fn put_in_force(
    fabric: &Fabric,
    choice: &Choice,
    back: bool,
    before: BTreeMap<NodeId, Result<(), CallError>>,
) -> Answers<()> {
    let mut answers = before;
    let failed = |answers: &BTreeMap<NodeId, Result<(), CallError>>| -> BTreeSet<NodeId> {
        let failed = answers.iter().filter(|(_, answer)| answer.is_err());
        failed.map(|(node, _)| node.clone()).collect()
    };
    let tried = ask_some(fabric, messages::POLICY_TRY, choice, &failed(&answers)).await;
    answers.extend(tried);
    let refused = |answer: &Result<(), CallError>| matches!(answer, Err(CallError::Refused { .. }));
    let refused_by: Vec<NodeId> = answers
        .iter()
        .filter(|(_, answer)| refused(answer))
        .map(|(node, _)| node.clone())
        .collect();
    if refused_by.is_empty() {
        let wish = Activate {
            choice: choice.clone(),
            back,
            sequence: next_sequence(fabric, choice.kind).await,
        };
        let active = ask_some(fabric, messages::POLICY_ACTIVATE, &wish, &failed(&answers)).await;
        answers.extend(active);
    }
    let answers = answers.into_iter().map(|(node, answer)| {
        let answer = match answer {
            Ok(()) if !refused_by.is_empty() => Err(RolloutError::HeldBack {
                node: node.clone(),
                refused_by: refused_by.clone(),
            }),
            answer => answer.map_err(RolloutError::from),
        };
        (node, answer)
    });
    answers.collect()
}

/// A number for a change that is higher than those so far. Its lower bits are random, so that of two changes made at the same time
/// each has its own, and all nodes agree which is the later.
async fn next_sequence(fabric: &Fabric, kind: Kind) -> u64 {
    let states = states(fabric).await;
    let states = states.values().filter_map(|state| state.as_ref().ok());
    let latest = states.map(|state| state.sequence.of(kind)).max();
    let changes = latest.unwrap_or(0) >> u16::BITS;
    (changes + 1) << u16::BITS | u64::from(rand::random::<u16>())
}

/// Asks all members but these.
async fn ask_some<Q>(
    fabric: &Fabric,
    operation: &'static str,
    question: &Q,
    but: &BTreeSet<NodeId>,
) -> BTreeMap<NodeId, Result<(), CallError>>
where
    Q: serde::Serialize + Clone + Send + Sync + 'static,
{
    let members = fabric.members().borrow().clone();
    let members = members.difference(but).cloned().collect();
    crate::cluster::ask(fabric, members, operation, question, TRIAL_PATIENCE).await
}

/// Gives a component to every member. An answer is why the member could not save it, if so.
async fn push_to_all(
    fabric: &Fabric,
    name: &str,
    component: &[u8],
) -> BTreeMap<NodeId, Result<Option<String>, CallError>> {
    let component: Arc<[u8]> = component.into();
    let digest = Digest::of(&component);
    let mut pushes = JoinSet::new();
    for node in fabric.members().borrow().clone() {
        let (fabric, name, component) = (fabric.clone(), name.to_owned(), Arc::clone(&component));
        pushes.spawn(async move {
            let answer = push_to(&fabric, &node, &name, digest, &component).await;
            (node, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(Ok((node, answer))) = pushes.join_next().await {
        answers.insert(node, answer);
    }
    answers
}

async fn push_to(
    fabric: &Fabric,
    node: &NodeId,
    name: &str,
    digest: Digest,
    component: &[u8],
) -> Result<Option<String>, CallError> {
    let size = component.len() as u64;
    let mut push = Push {
        name: name.to_owned(),
        digest,
        size,
        offset: 0,
        // Without a piece, to learn how much of it is there already.
        piece: Hex::default(),
    };
    loop {
        // With the last piece the node compiles it.
        let pushed: Pushed = fabric
            .call(node, messages::POLICY_PUSH, &push, TRIAL_PATIENCE)
            .await?;
        if pushed.have >= size {
            return Ok(pushed.unsaved);
        }
        push.offset = pushed.have;
        push.piece = piece_of(component, pushed.have).piece;
    }
}

/// Takes over what the cluster has in force whenever somebody comes into sight, until `stop` changes: this node, or that one,
/// may have been away while it changed.
pub(crate) async fn follow(
    fabric: Fabric,
    policies: Arc<Policies>,
    mut stop: watch::Receiver<bool>,
) {
    let mut members = fabric.members();
    members.borrow_and_update();
    loop {
        tokio::select! {
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                members.borrow_and_update();
            }
            () = tokio::time::sleep(LOOK_PERIOD) => {}
            _ = stop.changed() => return,
        }
        catch_up(&fabric, &policies).await;
    }
}

/// Takes over what the cluster has in force, if that has changed since this node last heard of it.
pub(crate) async fn catch_up(fabric: &Fabric, policies: &Arc<Policies>) {
    let states = states(fabric).await;
    let others = states
        .iter()
        .filter_map(|(node, state)| Some((node, state.as_ref().ok()?)))
        .filter(|(node, _)| *node != fabric.node());
    let others: Vec<_> = others.collect();
    let own = policies.state();
    for kind in [Kind::Scheduler, Kind::Predictor] {
        let latest = others
            .iter()
            .max_by_key(|(_, state)| state.sequence.of(kind));
        let Some((node, latest)) = latest else { return };
        let sequence = latest.sequence.of(kind);
        if sequence <= own.sequence.of(kind) {
            continue;
        }
        let Some(theirs) = latest.history(kind).last() else {
            continue;
        };
        let same = |ours: &Change| ours.digest == theirs.digest && ours.settings == theirs.settings;
        if !policies.follows_cluster(kind) || own.history(kind).last().is_some_and(same) {
            policies.settle(kind, sequence);
            continue;
        }
        let choice = Choice {
            kind,
            name: theirs.name.clone(),
            digest: theirs.digest,
            settings: theirs.settings.clone(),
        };
        if let Err(error) = bring(fabric, policies, node, &choice).await {
            // It may be had later.
            warn!(policy = choice.name, %node, "not taken over from the cluster: {error}");
            continue;
        }
        let (adopting, name) = (Arc::clone(policies), choice.name.clone());
        let adopted = tokio::task::spawn_blocking(move || {
            adopting.activate(&choice, Cause::Activated, sequence)
        });
        match adopted.await {
            Ok(Ok(())) => info!(policy = name, %node, "taken over from the cluster"),
            Ok(Err(error)) => {
                warn!(policy = name, %node, "not taken over from the cluster: {error}")
            }
            Err(error) => warn!(policy = name, "not taken over from the cluster: {error}"),
        }
        // What does not do here is not tried again.
        policies.settle(kind, sequence);
    }
}

/// Brings a component from the node that has it in force, unless it is here.
async fn bring(
    fabric: &Fabric,
    policies: &Arc<Policies>,
    node: &NodeId,
    choice: &Choice,
) -> Result<(), String> {
    let (Some(digest), false) = (choice.digest, policies.has(choice)) else {
        return Ok(());
    };
    let component = fetch(fabric, node, digest).await?;
    let (policies, name) = (Arc::clone(policies), choice.name.clone());
    let kept = tokio::task::spawn_blocking(move || policies.keep(&name, digest, &component));
    kept.await.map_err(|e| e.to_string())?.map(drop)
}

/// Fetches a component from a node that has it.
async fn fetch(fabric: &Fabric, node: &NodeId, digest: Digest) -> Result<Vec<u8>, String> {
    let mut component = Vec::new();
    loop {
        let question = Fetch {
            digest,
            offset: component.len() as u64,
        };
        let answer = fabric.call::<_, Piece>(node, messages::POLICY_FETCH, &question, PATIENCE);
        let Piece { size, piece } = answer.await.map_err(|e| e.to_string())?;
        let piece = piece.decode()?;
        if piece.is_empty() || size > MAX_COMPONENT {
            return Err(format!("its pieces do not add up to {size} bytes"));
        }
        component.extend_from_slice(&piece);
        if component.len() as u64 >= size {
            return match Digest::of(&component) {
                found if found == digest => Ok(component),
                found => Err(format!(
                    "it came with the digest {found} instead of {digest}"
                )),
            };
        }
    }
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
    names.join(", ")
}
