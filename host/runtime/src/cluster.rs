//! What concerns all nodes of a cluster at once: who is there, and what each has to say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use halo_fabric::{CallError, Counters, Fabric, Mode, NodeId};
use tokio::task::JoinSet;

use crate::config::Network;
use crate::generating::Generating;
use crate::messages::{self, Loading, Profile};
use crate::planned::Planned;

/// Questions that a node answers from memory.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// This machine's name, as far as a node's name may go.
pub fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_ascii_lowercase();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    if name.is_empty() { "node".into() } else { name }
}

/// Asks every member the same and gives the answers by node.
pub(crate) async fn ask_all<Q, R>(
    fabric: &Fabric,
    operation: &'static str,
    question: &Q,
    patience: Duration,
) -> BTreeMap<NodeId, Result<R, CallError>>
where
    Q: serde::Serialize + Clone + Send + Sync + 'static,
    R: serde::de::DeserializeOwned + Send + 'static,
{
    let members = fabric.members().borrow().clone();
    ask(fabric, members, operation, question, patience).await
}

/// Asks some nodes the same and gives the answers by node.
pub(crate) async fn ask<Q, R>(
    fabric: &Fabric,
    nodes: BTreeSet<NodeId>,
    operation: &'static str,
    question: &Q,
    patience: Duration,
) -> BTreeMap<NodeId, Result<R, CallError>>
where
    Q: serde::Serialize + Clone + Send + Sync + 'static,
    R: serde::de::DeserializeOwned + Send + 'static,
{
    let mut questions = JoinSet::new();
    for node in nodes {
        let (fabric, question) = (fabric.clone(), question.clone());
        questions.spawn(async move {
            let answer = fabric.call(&node, operation, &question, patience).await;
            (node, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(Ok((node, answer))) = questions.join_next().await {
        answers.insert(node, answer);
    }
    answers
}

/// What the members are.
pub async fn profiles(fabric: &Fabric) -> BTreeMap<NodeId, Result<Profile, CallError>> {
    ask_all(fabric, messages::PROFILE, &(), PATIENCE).await
}

/// What has gone over the members' data planes.
pub async fn counters(fabric: &Fabric) -> BTreeMap<NodeId, Result<Counters, CallError>> {
    ask_all(fabric, messages::COUNTERS, &(), PATIENCE).await
}

/// What the members that lead have planned; nothing of those that do not.
pub async fn plans(fabric: &Fabric) -> BTreeMap<NodeId, Result<Option<Planned>, CallError>> {
    ask_all(fabric, messages::PLAN, &(), PATIENCE).await
}

/// What the members that lead generate.
pub async fn generating(fabric: &Fabric) -> BTreeMap<NodeId, Result<Generating, CallError>> {
    ask_all(fabric, messages::GENERATING, &(), PATIENCE).await
}

/// How far the members are with loading what they compute for others.
pub async fn loading(fabric: &Fabric) -> BTreeMap<NodeId, Result<Loading, CallError>> {
    ask_all(fabric, messages::LOADING, &(), PATIENCE).await
}

/// In words, what to do when nodes are missing from a cluster.
pub fn advice(network: &Network) -> String {
    let Network { cluster, mode, .. } = network;
    if *mode == Mode::Client {
        return format!(
            "Start nodes with `halo node --cluster {cluster} --client --connect ROUTER`"
        );
    }
    let start = format!("Start nodes with `halo node --cluster {cluster}`");
    match (&network.connect[..], network.scouting) {
        ([], true) => format!(
            "{start}; where multicast does not reach, give this one their addresses with --connect HOST:PORT"
        ),
        ([], false) => {
            format!("{start}, and give this one their addresses with --connect HOST:PORT")
        }
        (connect, _) => format!(
            "{start}; those at {} must be reachable over TCP and UDP",
            connect.join(", ")
        ),
    }
}

/// In words, why there are not enough workers: whom the leader does see.
pub(crate) fn summary(
    found: &BTreeMap<NodeId, Result<Profile, CallError>>,
    own: &Profile,
) -> String {
    let others = found.iter().filter(|(node, _)| **node != own.node);
    let lines = others.map(|(node, answer)| match answer {
        Ok(p) if !p.serves => format!("{node} only leads"),
        Ok(p) if p.model.is_empty() => {
            format!("{node} has no model yet (`halo model push` gives it one)")
        }
        Ok(p) if p.model != own.model => {
            format!("{node} has another model (`halo model inspect` shows each one's identity)")
        }
        Ok(_) => format!("{node} is ready"),
        Err(error) => format!("{node}: {error}"),
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        "Nobody else is there".into()
    } else {
        lines.join("; ")
    }
}
