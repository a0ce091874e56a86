//! Who is in the cluster.
//!
//! A member holds a liveliness token `halo/{cluster}/node/{node}/{session}`. zenoh takes it away when the node closes,
//! and when it has been silent for a lease. The session's number in the key shows when two nodes have one name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::qos::Reliability;
use zenoh::sample::SampleKind;
use zenoh::session::{LinkEventsListener, ZenohId};

use crate::config::LEASE_MS;
use crate::roster::Roster;
use crate::{FabricConfig, FabricError, NodeId, linger};

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
    _links: LinkEventsListener<()>,
}

impl Membership {
    /// Begins to watch the cluster, and keeps the roster up to date from then on.
    pub(crate) async fn watch(
        session: &zenoh::Session,
        config: &FabricConfig,
        roster: &Arc<Roster>,
    ) -> Result<Self, FabricError> {
        let failed = |reason| FabricError::zenoh("watch the cluster's members", &reason);
        let links = session
            .info()
            .link_events_listener()
            .history(true)
            .callback({
                // The session outlives what is told of its links.
                let roster = Arc::downgrade(roster);
                move |event| {
                    let link = event.link();
                    if link.reliability() != Some(Reliability::Reliable) {
                        return;
                    }
                    let cut = event.kind() == SampleKind::Delete;
                    if !cut && let Err(error) = linger::never() {
                        tracing::debug!(%error, "connections may linger");
                    }
                    if let Some(roster) = roster.upgrade() {
                        roster.set_cut(&link.zid().to_string(), cut);
                    }
                }
            })
            .await
            .map_err(failed)?;
        let tokens = session
            .liveliness()
            .declare_subscriber(format!("halo/{}/node/*/*", config.cluster))
            .history(true)
            .callback({
                let roster = Arc::clone(roster);
                move |sample| {
                    let Some((node, holder)) = parse_token(sample.key_expr().as_str()) else {
                        return;
                    };
                    match sample.kind() {
                        SampleKind::Put => roster.announce(&node, holder),
                        SampleKind::Delete => roster.withdraw(&node, &holder),
                    }
                }
            })
            .await
            .map_err(failed)?;
        Ok(Self {
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            session: session.zid(),
            members: roster.members(),
            token: Mutex::default(),
            _tokens: tokens,
            _links: links,
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
