//! Who is in the cluster.
//!
//! A member holds a liveliness token `halo/{cluster}/node/{node}/{session}`. zenoh takes it away when the node closes,
//! and when it has been silent for a lease. The session's number in the key shows when two nodes have one name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::sample::SampleKind;
use zenoh::session::ZenohId;

use crate::config::LEASE_MS;
use crate::{FabricConfig, FabricError, NodeId};

/// How long to wait for others' tokens when asking who has a name.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before asking again.
const ASK_PAUSE: Duration = Duration::from_millis(250);

/// How long a token takes to reach everybody, generously.
const SETTLE: Duration = Duration::from_millis(300);

/// How long the token of a node that has died may outlive it: a lease to notice, and as much for slow machines. A node
/// that starts again within this time finds its own name taken, and waits.
const GHOST_LIFE: Duration = Duration::from_millis(2 * LEASE_MS);

/// A session's view of the members, and its own token.
#[derive(Debug)]
pub(crate) struct Membership {
    cluster: String,
    node: NodeId,
    session: ZenohId,
    members: watch::Receiver<BTreeSet<NodeId>>,
    token: Mutex<Option<LivelinessToken>>,
    /// Keeps the view up to date.
    _tokens: Subscriber<()>,
}

impl Membership {
    /// Begins to watch the cluster.
    pub(crate) async fn watch(
        session: &zenoh::Session,
        config: &FabricConfig,
    ) -> Result<Self, FabricError> {
        let (sender, members) = watch::channel(BTreeSet::new());
        let view = Mutex::new(BTreeMap::<NodeId, BTreeSet<String>>::new());
        let tokens = session
            .liveliness()
            .declare_subscriber(format!("halo/{}/node/*/*", config.cluster))
            .history(true)
            .callback(move |sample| {
                let Some((node, holder)) = parse_token(sample.key_expr().as_str()) else {
                    return;
                };
                let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
                let holders = view.entry(node.clone()).or_default();
                match sample.kind() {
                    SampleKind::Put => {
                        holders.insert(holder);
                        if holders.len() > 1 {
                            tracing::error!(%node, "two nodes have this name; stop one of them");
                        }
                    }
                    SampleKind::Delete => {
                        holders.remove(&holder);
                    }
                }
                if holders.is_empty() {
                    view.remove(&node);
                }
                // Sent under the lock, so that views are published in their order.
                let names: BTreeSet<NodeId> = view.keys().cloned().collect();
                sender.send_if_modified(|members| {
                    let changed = *members != names;
                    *members = names;
                    changed
                });
            })
            .await
            .map_err(|reason| FabricError::zenoh("watch the cluster's members", &reason))?;
        Ok(Self {
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            session: session.zid(),
            members,
            token: Mutex::default(),
            _tokens: tokens,
        })
    }

    pub(crate) fn members(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.members.clone()
    }

    /// Fails if another live node has our name. The token of one that has just died is waited out.
    pub(crate) async fn check_name_free(
        &self,
        session: &zenoh::Session,
    ) -> Result<(), FabricError> {
        let deadline = tokio::time::Instant::now() + GHOST_LIFE;
        while !self.others_of_our_name(session).await?.is_empty() {
            if tokio::time::Instant::now() >= deadline {
                return Err(self.name_taken());
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
        Ok(())
    }

    /// Becomes a member.
    pub(crate) async fn announce(&self, session: &zenoh::Session) -> Result<(), FabricError> {
        if self.own_token().is_some() {
            return Ok(());
        }
        if !self.others_of_our_name(session).await?.is_empty() {
            return Err(self.name_taken());
        }
        let key = format!("halo/{}/node/{}/{}", self.cluster, self.node, self.session);
        let token = session
            .liveliness()
            .declare_token(key)
            .await
            .map_err(|reason| FabricError::zenoh("announce this node", &reason))?;
        // Two nodes may have announced themselves at once; then the one with the smaller session number stays.
        tokio::time::sleep(SETTLE).await;
        let others = self.others_of_our_name(session).await?;
        let ours = self.session.to_string();
        if others.iter().any(|other| *other < ours) {
            return Err(self.name_taken());
        }
        *self.own_token() = Some(token);
        Ok(())
    }

    /// The other sessions that hold a token of our name.
    async fn others_of_our_name(
        &self,
        session: &zenoh::Session,
    ) -> Result<Vec<String>, FabricError> {
        let key = format!("halo/{}/node/{}/*", self.cluster, self.node);
        let replies = session
            .liveliness()
            .get(key)
            .timeout(ASK_TIMEOUT)
            .await
            .map_err(|reason| FabricError::zenoh("ask who has this node's name", &reason))?;
        let ours = self.session.to_string();
        let mut others = Vec::new();
        while let Ok(reply) = replies.recv_async().await {
            let holder = reply
                .result()
                .ok()
                .and_then(|sample| parse_token(sample.key_expr().as_str()));
            others.extend(
                holder
                    .map(|(_, holder)| holder)
                    .filter(|holder| *holder != ours),
            );
        }
        Ok(others)
    }

    fn own_token(&self) -> std::sync::MutexGuard<'_, Option<LivelinessToken>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_taken(&self) -> FabricError {
        FabricError::NameTaken {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
        }
    }
}

/// The node and the session that a token's key names.
fn parse_token(key: &str) -> Option<(NodeId, String)> {
    let mut parts = key.rsplit('/');
    let holder = parts.next()?.to_owned();
    let node = parts.next()?.parse().ok()?;
    Some((node, holder))
}
