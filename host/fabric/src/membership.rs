//! Who is in the cluster.
//!
//! A member holds a liveliness token `halo/{cluster}/node/{node}/{sessions}`. zenoh takes it away when the node closes, and when its
//! connection has gone. The numbers of its two sessions in the key show when two nodes have one name, and whose links are whose.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::sample::SampleKind;
use zenoh::session::LinkEventsListener;

use crate::config::LEASE_MS;
use crate::roster::{Holder, Roster};
use crate::session::Sessions;
use crate::{FabricConfig, FabricError, NodeId, linger};

/// How long to wait for others' tokens when asking who has a name.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before asking again.
const ASK_PAUSE: Duration = Duration::from_millis(250);

/// Between two looks whether a token has come.
const LOOK_PERIOD: Duration = Duration::from_millis(2);

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
    holder: Holder,
    roster: Arc<Roster>,
    token: Mutex<Option<LivelinessToken>>,
    /// Keeps the view up to date.
    _tokens: Subscriber<()>,
    _links: [LinkEventsListener<()>; 2],
}

impl Membership {
    /// Begins to watch the cluster, and keeps the roster up to date from then on.
    pub(crate) async fn watch(
        Sessions { control, data }: &Sessions,
        config: &FabricConfig,
        roster: &Arc<Roster>,
    ) -> Result<Self, FabricError> {
        let failed = |reason| FabricError::zenoh("watch the cluster's members", &reason);
        let connections = control
            .info()
            .link_events_listener()
            .history(true)
            .callback(|event| {
                if event.kind() == SampleKind::Put
                    && let Err(error) = linger::never()
                {
                    tracing::debug!(%error, "connections may linger");
                }
            })
            .await
            .map_err(failed)?;
        let links = data
            .info()
            .link_events_listener()
            .history(true)
            .callback({
                // The session outlives what is told of its links.
                let roster = Arc::downgrade(roster);
                move |event| {
                    if let Some(roster) = roster.upgrade() {
                        let zid = event.link().zid().to_string();
                        roster.set_linked(zid, event.kind() == SampleKind::Put);
                    }
                }
            })
            .await
            .map_err(failed)?;
        let tokens = control
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
            holder: Holder {
                control: control.zid().to_string(),
                data: data.zid().to_string(),
            },
            roster: Arc::clone(roster),
            token: Mutex::default(),
            _tokens: tokens,
            _links: [connections, links],
        })
    }

    pub(crate) fn members(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.roster.members()
    }

    /// Fails if another live node has our name. The token of one that has just died is waited out.
    pub(crate) async fn check_name_free(
        &self,
        session: &zenoh::Session,
    ) -> Result<(), FabricError> {
        self.hear_of_neighbours(session).await;
        let deadline = tokio::time::Instant::now() + GHOST_LIFE;
        while !self.others_of_our_name(session).await?.is_empty() {
            if tokio::time::Instant::now() >= deadline {
                return Err(self.name_taken());
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
        Ok(())
    }

    /// Waits until those to whom there are connections have told of their tokens, but no longer than these take: some have none.
    async fn hear_of_neighbours(&self, session: &zenoh::Session) {
        let deadline = tokio::time::Instant::now() + SETTLE;
        for peer in session.info().peers_zid().await {
            let peer = peer.to_string();
            while !self.roster.has_heard_of(&peer) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        }
    }

    /// Becomes a member.
    pub(crate) async fn announce(&self, sessions: &Sessions) -> Result<(), FabricError> {
        let session = &sessions.control;
        if self.own_token().is_some() {
            return Ok(());
        }
        if !self.others_of_our_name(session).await?.is_empty() {
            return Err(self.name_taken());
        }
        let key = format!("halo/{}/node/{}/{}", self.cluster, self.node, self.holder);
        let token = session
            .liveliness()
            .declare_token(key)
            .await
            .map_err(|reason| FabricError::zenoh("announce this node", &reason))?;
        // Two nodes may have announced themselves at once; then the one with the smaller session number stays.
        tokio::time::sleep(SETTLE).await;
        let others = self.others_of_our_name(session).await?;
        if others.iter().any(|other| *other < self.holder) {
            return Err(self.name_taken());
        }
        *self.own_token() = Some(token);
        Ok(())
    }

    /// The other sessions that hold a token of our name.
    async fn others_of_our_name(
        &self,
        session: &zenoh::Session,
    ) -> Result<Vec<Holder>, FabricError> {
        let key = format!("halo/{}/node/{}/*", self.cluster, self.node);
        let replies = session
            .liveliness()
            .get(key)
            .timeout(ASK_TIMEOUT)
            .await
            .map_err(|reason| FabricError::zenoh("ask who has this node's name", &reason))?;
        let mut others = Vec::new();
        while let Ok(reply) = replies.recv_async().await {
            let holder = reply
                .result()
                .ok()
                .and_then(|sample| parse_token(sample.key_expr().as_str()));
            others.extend(
                holder
                    .map(|(_, holder)| holder)
                    .filter(|holder| *holder != self.holder),
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

/// The node and the sessions that a token's key names.
fn parse_token(key: &str) -> Option<(NodeId, Holder)> {
    let mut parts = key.rsplit('/');
    let holder = parts.next()?.parse().ok()?;
    let node = parts.next()?.parse().ok()?;
    Some((node, holder))
}
