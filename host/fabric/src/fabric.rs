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
use crate::{
    CallError, Counters, FabricConfig, FabricError, Handler, Link, NodeId, Packet, Receiver,
    Service, alive, control, heartbeat, session,
};

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
    _packets: Subscriber<()>,
    _alive: Queryable<()>,
    session: zenoh::Session,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The task holds the session, and would keep it open.
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
        let prepared = Prepared::new(&config)?;
        let session = session::open(&prepared).await?;
        let endpoints = session::endpoints(&session, &prepared).await;

        let roster = Arc::new(Roster::new());
        let membership = Membership::watch(&session, &config, &roster).await?;
        membership.check_name_free(&session).await?;

        let packets = session
            .declare_subscriber(plane.key_of_all())
            .callback({
                let plane = Arc::clone(&plane);
                move |sample| plane.take(&sample)
            })
            .await
            .map_err(|reason| FabricError::zenoh("receive packets", &reason))?;
        let alive = alive::answer(&session, &config).await?;
        let heartbeat = tokio::spawn(heartbeat::run(
            Arc::clone(&plane),
            session.clone(),
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
                session,
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
        if let Err(error) = self.inner.session.close().await {
            tracing::debug!(%error, "closing the session");
        }
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
        self.inner.membership.announce(&self.inner.session).await
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
            session, config, ..
        } = &*self.inner;
        control::call(session, config, to, operation, request, timeout).await
    }

    /// Answers other nodes' requests until the service is dropped.
    ///
    /// # Errors
    ///
    /// If the session is closed.
    pub async fn serve(&self, handler: impl Handler) -> Result<Service, FabricError> {
        let Inner {
            session, config, ..
        } = &*self.inner;
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
            session, config, ..
        } = &*self.inner;
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
            session, config, ..
        } = &*self.inner;
        control::serve(session, config, BULK, handler, |bytes| bytes).await
    }

    /// The link to another node. It is made once and kept, whether the node is there or not.
    ///
    /// # Errors
    ///
    /// If the session is closed, or there are more than a thousand links.
    pub fn link(&self, to: &NodeId) -> Result<Arc<Link>, FabricError> {
        self.inner.plane.link(&self.inner.session, to)
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
        if self.inner.session.is_closed() {
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
