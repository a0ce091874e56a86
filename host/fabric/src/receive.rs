//! The receiving side of the data plane.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Instant;

use tokio::sync::mpsc;
use zenoh::pubsub::Subscriber;
use zenoh::sample::Sample;

use crate::counters::LiveCounters;
use crate::session::Sessions;
use crate::{
    FabricConfig, FabricError, FaultInjector, Kind, Link, NodeId, Packet, Transport, heartbeat,
};

/// The most nodes links are kept for; packets of more cannot be answered.
const MAX_LINKS: usize = 1024;

/// What is called with every tensor packet.
type Callback = dyn Fn(&NodeId, Packet<'_>) + Send + Sync;

/// Callbacks by the number of their receiver. Replaced as a whole, so that packets need no lock while they are handled.
type Callbacks = Arc<[(u64, Arc<Callback>)]>;

/// Everything of the data plane that packets need on their way in and out.
///
/// It holds no zenoh session, for the session holds the callback that holds this.
pub(crate) struct DataPlane {
    pub(crate) cluster: String,
    pub(crate) node: NodeId,
    tensors: Transport,
    pub(crate) counters: Arc<LiveCounters>,
    /// Where this node's clock begins.
    start: Instant,
    faults: Option<Mutex<FaultInjector>>,
    links: RwLock<HashMap<NodeId, Arc<Link>>>,
    callbacks: RwLock<Callbacks>,
    next_callback: AtomicU64,
    /// Nodes from which packets come without there being a link.
    strangers: mpsc::Sender<NodeId>,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl DataPlane {
    pub(crate) fn new(
        config: &FabricConfig,
        strangers: mpsc::Sender<NodeId>,
    ) -> Result<Self, FabricError> {
        Ok(Self {
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            tensors: config.tensors,
            counters: Arc::default(),
            start: Instant::now(),
            faults: config
                .faults
                .as_ref()
                // Nothing that is sent over TCP is lost.
                .filter(|_| config.tensors == Transport::Udp)
                .map(FaultInjector::new)
                .transpose()?
                .map(Mutex::new),
            links: RwLock::default(),
            callbacks: RwLock::new(Arc::new([])),
            next_callback: AtomicU64::new(0),
            strangers,
        })
    }

    /// Takes in packets to this node until the subscriber is dropped.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        session: &zenoh::Session,
    ) -> Result<Subscriber<()>, FabricError> {
        let plane = Arc::clone(self);
        session
            .declare_subscriber(format!("halo/{}/data/{}/*", self.cluster, self.node))
            .callback(move |sample| plane.take(&sample))
            .await
            .map_err(|reason| FabricError::zenoh("receive packets", &reason))
    }

    /// Says once more that packets from a node are wanted, until what is returned is dropped. Declarations over UDP may be lost as
    /// anything else may. It takes in nothing itself, so that no packet is taken in twice.
    ///
    /// What comes before the first wildcard of a key zenoh tells the other side by itself, and from then on by a number; if the first was
    /// lost, the number means nothing there. So this key begins with one.
    pub(crate) async fn want(
        &self,
        session: &zenoh::Session,
        from: &NodeId,
    ) -> Result<Subscriber<()>, FabricError> {
        session
            .declare_subscriber(format!("*/{}/data/{}/{from}", self.cluster, self.node))
            .callback(|_| ())
            .await
            .map_err(|reason| FabricError::zenoh("receive packets", &reason))
    }

    /// This node's clock.
    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The link to a node, opened when it is first asked for.
    pub(crate) fn link(&self, sessions: &Sessions, to: &NodeId) -> Result<Arc<Link>, FabricError> {
        if let Some(link) = self.known_link(to) {
            return Ok(link);
        }
        // Opening one under the lock keeps two threads from opening two.
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(to) {
            return Ok(Arc::clone(link));
        }
        if links.len() >= MAX_LINKS {
            // What nobody holds can be made anew.
            links.retain(|_, link| Arc::strong_count(link) > 1);
        }
        if links.len() >= MAX_LINKS {
            return Err(FabricError::Zenoh {
                action: format!("open the link to `{to}`"),
                reason: format!("there are {MAX_LINKS} links already"),
            });
        }
        let key = format!("halo/{}/data/{to}/{}", self.cluster, self.node);
        let link = Link::open(
            sessions,
            key,
            to.clone(),
            self.tensors,
            Arc::clone(&self.counters),
        )?;
        Ok(Arc::clone(
            links.entry(to.clone()).or_insert(Arc::new(link)),
        ))
    }

    fn known_link(&self, to: &NodeId) -> Option<Arc<Link>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(to).cloned()
    }

    /// Takes in whatever has come under one of our keys.
    pub(crate) fn take(&self, sample: &Sample) {
        let bytes = sample.payload().to_bytes();
        let dropped = self.faults.as_ref().is_some_and(|faults| {
            faults
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .loses()
        });
        if dropped {
            self.counters.dropped(bytes.len());
            return;
        }
        let from = sample.key_expr().as_str().rsplit('/').next();
        let from = from.and_then(|from| from.parse::<NodeId>().ok());
        let (Some(from), Ok(packet)) = (from, Packet::parse(&bytes)) else {
            self.counters.malformed(bytes.len());
            return;
        };
        self.counters.received(packet.header.kind, bytes.len());

        let link = self.known_link(&from);
        match &link {
            Some(link) => link.heard(packet.sequence, Instant::now()),
            // The publisher is opened elsewhere: this is a thread of zenoh's. If the queue is full, the next packet
            // will do.
            None => drop(self.strangers.try_send(from.clone())),
        }
        match packet.header.kind {
            Kind::Ping => {
                if let Some(link) = link {
                    heartbeat::answer_ping(&link, packet.body);
                }
            }
            Kind::Pong => {
                if let Some(link) = link {
                    heartbeat::take_pong(&link, self, packet.body);
                }
            }
            Kind::Activation | Kind::Partial | Kind::Ask => self.pass_on(&from, packet),
        }
    }

    fn pass_on(&self, from: &NodeId, packet: Packet<'_>) {
        // A copy, so that a callback may add or stop receivers.
        let callbacks = Arc::clone(
            &self
                .callbacks
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for (_, callback) in callbacks.iter() {
            callback(from, packet);
        }
    }

    /// Changes the callbacks.
    fn change_callbacks(&self, change: impl FnOnce(&mut Vec<(u64, Arc<Callback>)>)) {
        let mut callbacks = self
            .callbacks
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut changed = callbacks.to_vec();
        change(&mut changed);
        *callbacks = changed.into();
    }

    /// Adds a callback for tensor packets.
    pub(crate) fn receive(self: &Arc<Self>, callback: Arc<Callback>) -> Receiver {
        let id = self.next_callback.fetch_add(1, Ordering::Relaxed);
        self.change_callbacks(|callbacks| callbacks.push((id, callback)));
        Receiver {
            plane: Arc::downgrade(self),
            id,
        }
    }
}

/// Keeps a callback for packets; dropping it stops the calls.
///
/// A call under way on another thread may still be finishing when the drop returns.
#[derive(Debug)]
#[must_use = "packets are received only as long as this is kept"]
pub struct Receiver {
    plane: Weak<DataPlane>,
    id: u64,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(plane) = self.plane.upgrade() {
            plane.change_callbacks(|callbacks| callbacks.retain(|(id, _)| *id != self.id));
        }
    }
}
