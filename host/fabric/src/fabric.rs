//! A node's connection to its cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use zenoh::pubsub::Subscriber;
use zenoh::query::Queryable;

use crate::config::Prepared;
use crate::control::{BULK, CONTROL};
use crate::membership::Membership;
use crate::receive::DataPlane;
use crate::roster::Roster;
use crate::session::Sessions;
use crate::{
    CallError, Counters, FabricConfig, FabricError, Handler, Link, NodeId, Packet, Receiver,
    Service, Transport, alive, control, heartbeat, session,
};

/// How often to look whether a node has been heard.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// How many nodes without a link may wait for one.
const STRANGERS: usize = 64;

/// A node's connection to its cluster. Clones are the same connection; it closes with [`Fabric::close`] or when the
/// last clone is dropped.
///
/// It has to be opened and dropped within a multi-threaded tokio runtime.
#[derive(Debug, Clone)]
pub struct Fabric {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: FabricConfig,
    endpoints: Vec<String>,
    plane: Arc<DataPlane>,
    membership: Membership,
    heartbeat: AbortHandle,
    _packets: Vec<Subscriber<()>>,
    _alive: Queryable<()>,
    sessions: Sessions,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The task holds the sessions, and would keep them open.
        self.heartbeat.abort();
    }
}

impl Fabric {
    /// Connects to the cluster, without becoming a member of it.
    ///
    /// As a peer it returns even if there is nobody to connect to yet; as a client it needs its router.
    ///
    /// # Errors
    ///
    /// If the settings are not possible, an address cannot be listened on, a client's router cannot be reached, or a
    /// live member has this node's name.
    pub async fn open(config: FabricConfig) -> Result<Self, FabricError> {
        let (stranger_sender, strangers) = mpsc::channel(STRANGERS);
        let plane = Arc::new(DataPlane::new(&config, stranger_sender)?);
        let prepared = Arc::new(Prepared::new(&config)?);
        let sessions = Sessions::open(&prepared).await?;
        let endpoints = session::endpoints(&sessions, &prepared).await;

        let roster = Arc::new(Roster::new());
        let membership = Membership::watch(&sessions, &config, &roster).await?;
        membership.check_name_free(&sessions.control).await?;

        let mut packets = vec![plane.subscribe(&sessions.data).await?];
        if config.tensors == Transport::Tcp {
            packets.push(plane.subscribe(&sessions.control).await?);
        }
        let alive = alive::answer(&sessions.control, &config).await?;
        let heartbeat = tokio::spawn(heartbeat::run(
            Arc::clone(&plane),
            sessions.clone(),
            roster,
            strangers,
        ))
        .abort_handle();
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                endpoints,
                plane,
                membership,
                heartbeat,
                _packets: packets,
                _alive: alive,
                sessions,
            }),
        })
    }

    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.inner.config.node
    }

    /// The settings it was opened with.
    #[must_use]
    pub fn config(&self) -> &FabricConfig {
        &self.inner.config
    }

    /// Where it listens, for people: `HOST:PORT`, or zenoh's notation where that is not enough.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.inner.endpoints.clone()
    }

    /// Leaves the cluster and closes the connection. Everything else fails or does nothing from then on.
    pub async fn close(&self) {
        self.inner.heartbeat.abort();
        self.inner.sessions.close().await;
    }

    /// The live members of the cluster, this node among them if it is one.
    #[must_use]
    pub fn members(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.inner.membership.members()
    }

    /// Becomes a member. Whoever only asks questions need not.
    ///
    /// # Errors
    ///
    /// If another live member has this node's name.
    pub async fn announce(&self) -> Result<(), FabricError> {
        let Inner {
            membership,
            sessions,
            ..
        } = &*self.inner;
        membership.announce(sessions).await
    }

    /// Asks a node to do something, and waits for its answer.
    ///
    /// If the node is not reachable yet, this waits for it, too. The request is sent once: without an answer it may
    /// have been carried out or not.
    ///
    /// # Errors
    ///
    /// If the node does not answer in time or refuses, or the messages are too large or make no sense.
    pub async fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        to: &NodeId,
        operation: &str,
        request: &Q,
        timeout: Duration,
    ) -> Result<R, CallError> {
        let Inner {
            sessions, config, ..
        } = &*self.inner;
        let session = &sessions.control;
        control::call(session, config, to, operation, request, timeout).await
    }

    /// Answers other nodes' requests until the service is dropped.
    ///
    /// # Errors
    ///
    /// If the session is closed.
    pub async fn serve(&self, handler: impl Handler) -> Result<Service, FabricError> {
        let Inner {
            sessions, config, ..
        } = &*self.inner;
        let session = &sessions.control;
        let write = |value: serde_json::Value| value.to_string().into_bytes();
        control::serve(session, config, CONTROL, handler, write).await
    }

    /// Fetches bytes from a node, as [`call`](Self::call) does JSON, but with a lower priority than everything else.
    ///
    /// # Errors
    ///
    /// If the node does not answer in time or refuses, or the bytes are too many.
    pub async fn fetch<Q: Serialize>(
        &self,
        from: &NodeId,
        operation: &str,
        request: &Q,
        timeout: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let Inner {
            sessions, config, ..
        } = &*self.inner;
        let session = &sessions.control;
        let bytes = control::ask(session, config, BULK, from, operation, request, timeout);
        Ok(bytes.await?.to_bytes().into_owned())
    }

    /// Answers other nodes' [`fetch`](Self::fetch) until the service is dropped.
    ///
    /// # Errors
    ///
    /// If the session is closed.
    pub async fn serve_bulk(&self, handler: impl Handler<Vec<u8>>) -> Result<Service, FabricError> {
        let Inner {
            sessions, config, ..
        } = &*self.inner;
        let session = &sessions.control;
        control::serve(session, config, BULK, handler, |bytes| bytes).await
    }

    /// The link to another node. It is made once and kept, whether the node is there or not.
    ///
    /// # Errors
    ///
    /// If the session is closed, or there are more than a thousand links.
    pub fn link(&self, to: &NodeId) -> Result<Arc<Link>, FabricError> {
        self.inner.plane.link(&self.inner.sessions, to)
    }

    /// Waits until packets have come from another node, over UDP, but no longer than this. False if none have.
    ///
    /// A member is known by its connection over TCP; its link for packets takes as many attempts more as the network loses handshakes.
    pub async fn hears(&self, node: &NodeId, patience: Duration) -> bool {
        let heard = async {
            loop {
                let link = self.link(node);
                if link.is_ok_and(|link| link.last_heard().is_some()) {
                    return;
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        tokio::time::timeout(patience, heard).await.is_ok()
    }

    /// Calls `callback` with every tensor packet that arrives, until the receiver is dropped.
    ///
    /// Packets are valid in themselves, but may come late, twice, from anyone, and of any generation. The callback runs
    /// on zenoh's threads, on several at once for different senders; while it runs, the sender's next packets wait, so it
    /// should hand on what takes long. With several receivers, each gets every packet.
    ///
    /// # Errors
    ///
    /// If the session is closed.
    pub fn receive(
        &self,
        callback: impl Fn(&NodeId, Packet<'_>) + Send + Sync + 'static,
    ) -> Result<Receiver, FabricError> {
        if self.inner.sessions.data.is_closed() {
            return Err(FabricError::Zenoh {
                action: "receive packets".to_owned(),
                reason: "the session is closed".to_owned(),
            });
        }
        Ok(self.inner.plane.receive(Arc::new(callback)))
    }

    /// Counts a tensor packet that was received and is of no use: see [`Counters::useless`].
    pub fn count_useless(&self) {
        self.inner.plane.counters.useless();
    }

    /// What has gone over the data plane.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.plane.counters.get()
    }
}
