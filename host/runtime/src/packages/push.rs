//! Giving a package to other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use halo_fabric::{CallError, Fabric, NodeId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Taking, Wanted};
use crate::cluster::PATIENCE;
use crate::messages::{MODEL_TAKE, MODEL_TAKING};

/// How often nodes are asked how far they are.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// How long a node may say nothing: one that has a package begins anew with it.
const ENDURANCE: Duration = Duration::from_secs(60);

/// Why a node did not take a package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// It refused, or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It could not.
    #[error("{node}: {why}")]
    Failed {
        /// The node.
        node: NodeId,
        /// Why.
        why: String,
    },
}

/// Has nodes take a package that a [`Giver`](super::Giver) here gives, and returns when all of them compute with it or cannot.
/// `tell` is told of each node: bytes that it has, and bytes in all.
pub async fn push(
    fabric: &Fabric,
    wanted: &Wanted,
    nodes: BTreeSet<NodeId>,
    tell: &mut dyn FnMut(&NodeId, u64, u64),
) -> BTreeMap<NodeId, Result<(), PushError>> {
    let (steps, mut told) = mpsc::unbounded_channel();
    let mut pushes = JoinSet::new();
    for node in nodes {
        let (fabric, wanted, steps) = (fabric.clone(), wanted.clone(), steps.clone());
        pushes.spawn(async move {
            let answer = push_to(&fabric, &wanted, &node, &steps).await;
            (node, answer)
        });
    }
    let mut answers = BTreeMap::new();
    loop {
        tokio::select! {
            Some((node, done, total)) = told.recv() => tell(&node, done, total),
            pushed = pushes.join_next() => match pushed {
                Some(Ok((node, answer))) => drop(answers.insert(node, answer)),
                Some(Err(_)) => {}
                None => return answers,
            },
        }
    }
}

async fn push_to(
    fabric: &Fabric,
    wanted: &Wanted,
    node: &NodeId,
    steps: &mpsc::UnboundedSender<(NodeId, u64, u64)>,
) -> Result<(), PushError> {
    let mut begun = false;
    let mut last_heard = Instant::now();
    loop {
        let operation = if begun { MODEL_TAKING } else { MODEL_TAKE };
        let answer = fabric.call(node, operation, wanted, PATIENCE).await;
        let taking: Option<Taking> = match answer {
            Err(CallError::NoAnswer { .. } | CallError::Gone { .. })
                if last_heard.elapsed() < ENDURANCE =>
            {
                continue;
            }
            answer => answer?,
        };
        last_heard = Instant::now();
        // A node that has begun anew knows of nothing, and takes up what it has.
        begun = taking.is_some();
        match taking {
            Some(Taking::Serves) => return Ok(()),
            Some(Taking::Failed { why }) => {
                let node = node.clone();
                return Err(PushError::Failed { node, why });
            }
            Some(Taking::Fetches { done, total, .. }) => {
                // Whoever pushes may not want to know.
                let _ = steps.send((node.clone(), done, total));
            }
            Some(Taking::Complete) | None => {}
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}
