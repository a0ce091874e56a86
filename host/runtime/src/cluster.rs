//! What concerns all nodes of a cluster at once: who is there, and which policies are in force.

use std::collections::BTreeMap;
use std::time::Duration;

use halo_fabric::{CallError, Counters, Fabric, Mode, NodeId};
use halo_policy::{Digest, Kind, Setting, Stored};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::Network;
use crate::messages::{self, Activate, Fetch, PolicyEntry, PolicyList, Profile};
use crate::policies::Policies;

/// Questions that a node answers from memory.
const PATIENCE: Duration = Duration::from_secs(3);

/// Compiling and trying a policy takes a while on a Raspberry Pi.
const ACTIVATE_PATIENCE: Duration = Duration::from_secs(30);

/// A component as it travels: JSON has no bytes, and base64 is not worth a dependency for something that is sent once.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bytes {
    hexadecimal: String,
}

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
async fn ask_all<Q, R>(
    fabric: &Fabric,
    operation: &'static str,
    question: &Q,
    patience: Duration,
) -> BTreeMap<NodeId, Result<R, CallError>>
where
    Q: serde::Serialize + Clone + Send + std::marker::Sync + 'static,
    R: serde::de::DeserializeOwned + Send + 'static,
{
    let members = fabric.members().borrow().clone();
    let mut questions = JoinSet::new();
    for node in members {
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

/// Which policies the members have.
pub async fn policies(fabric: &Fabric) -> BTreeMap<NodeId, Result<PolicyList, CallError>> {
    ask_all(fabric, messages::POLICY_LIST, &(), PATIENCE).await
}

/// Puts a policy in force on every member. `bytes` travel along if they are given; else every member must have the policy.
pub async fn activate(
    fabric: &Fabric,
    name: &str,
    digest: Digest,
    bytes: Option<&[u8]>,
    settings: &[Setting],
) -> BTreeMap<NodeId, Result<Kind, CallError>> {
    let sequence = 1 + policies(fabric)
        .await
        .values()
        .filter_map(|l| l.as_ref().ok())
        .map(|l| l.sequence)
        .max()
        .unwrap_or(0);
    let wish = Activate {
        name: name.to_owned(),
        digest,
        component: bytes.map(Bytes::new),
        settings: settings.to_vec(),
        sequence,
    };
    ask_all(fabric, messages::POLICY_ACTIVATE, &wish, ACTIVATE_PATIENCE).await
}

/// A member's side of [`activate`].
pub(crate) fn activate_here(policies: &Policies, wish: Activate) -> Result<Kind, String> {
    let bytes = match wish.component {
        Some(bytes) => bytes.decode()?,
        None => policies
            .find(&wish.digest.to_string())
            .map_err(|e| e.to_string())?
            .bytes
            .into_owned(),
    };
    let kind = policies
        .activate(
            &wish.name,
            &bytes,
            wish.digest,
            &wish.settings,
            wish.sequence,
        )
        .map_err(|e| e.to_string())?;
    // What is in force must survive a restart of its sender; but it is in force whether or not the disk takes it.
    if policies.find(&wish.digest.to_string()).is_err()
        && let Err(error) = policies.keep(&wish.name, &bytes)
    {
        warn!(policy = wish.name, "in force, but not kept: {error}");
    }
    Ok(kind)
}

/// A component of this node's store, for a node that does not have it.
pub(crate) fn component(policies: &Policies, fetch: &Fetch) -> Result<Bytes, String> {
    let stored: Stored = policies
        .find(&fetch.digest.to_string())
        .map_err(|e| e.to_string())?;
    Ok(Bytes::new(&stored.bytes))
}

/// A node that comes later takes over what the cluster has in force, if that was ever changed.
pub(crate) async fn adopt_policies(fabric: &Fabric, policies: &Policies) {
    let lists = self::policies(fabric).await;
    let latest = lists
        .iter()
        .filter_map(|(node, list)| Some((node, list.as_ref().ok()?)))
        .filter(|(node, _)| *node != fabric.node());
    let Some((node, list)) = latest
        .max_by_key(|(_, list)| list.sequence)
        .filter(|(_, list)| list.sequence > 0)
    else {
        return;
    };
    for entry in list
        .policies
        .iter()
        .filter(|p| p.active && policies.follows_cluster(p.kind))
    {
        match adopt(fabric, policies, node, entry, list.sequence).await {
            Ok(()) => info!(policy = entry.name, %node, "taken over from the cluster"),
            Err(error) => {
                warn!(policy = entry.name, %node, "not taken over from the cluster: {error}")
            }
        }
    }
}

async fn adopt(
    fabric: &Fabric,
    policies: &Policies,
    node: &NodeId,
    entry: &PolicyEntry,
    sequence: u64,
) -> Result<(), String> {
    let Some(digest) = entry.digest else {
        return Ok(());
    };
    let component = match policies.find(&digest.to_string()) {
        Ok(_) => None,
        Err(_) => {
            let bytes = fabric
                .call::<_, Bytes>(
                    node,
                    messages::POLICY_FETCH,
                    &Fetch { digest },
                    ACTIVATE_PATIENCE,
                )
                .await;
            Some(bytes.map_err(|e| e.to_string())?)
        }
    };
    let wish = Activate {
        name: entry.name.clone(),
        digest,
        component,
        settings: Vec::new(),
        sequence,
    };
    activate_here(policies, wish).map(drop)
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

impl Bytes {
    fn new(bytes: &[u8]) -> Self {
        use std::fmt::Write;
        let mut hexadecimal = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(hexadecimal, "{byte:02x}");
        }
        Self { hexadecimal }
    }

    fn decode(&self) -> Result<Vec<u8>, String> {
        let digit = |c: u8| {
            (c as char)
                .to_digit(16)
                .ok_or_else(|| "a component's bytes are not hexadecimal".to_owned())
        };
        let (pairs, rest) = self.hexadecimal.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a component's bytes are cut off".into());
        }
        pairs
            .iter()
            .map(|[high, low]| Ok((digit(*high)? << 4 | digit(*low)?) as u8))
            .collect()
    }
}
