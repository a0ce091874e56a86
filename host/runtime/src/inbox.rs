//! From the network's threads to those that compute.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Instant;

use halo_fabric::{Header, Kind, NodeId, Packet};

use crate::outgoing::Outgoing;

/// Packets that may wait: those of more workers than any cluster has, a window of each. What does not fit is lost like on the network, and
/// asked for again.
const CAPACITY: usize = 8192;

/// A packet that has left the network's buffers.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) from: NodeId,
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
    /// When the network gave it to this node, whose thread may take it later.
    pub(crate) at: Instant,
}

impl Arrived {
    /// The chunks that it asks for, if it asks.
    pub(crate) fn asked(&self) -> impl Iterator<Item = u16> + use<'_> {
        Packet {
            header: self.header,
            sequence: 0,
            body: &self.body,
        }
        .asked()
    }
}

/// Gives packets to a thread without ever waiting for it.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(SyncSender<Arrived>);

/// A bounded queue of packets.
pub(crate) fn inbox() -> (Outbox, Receiver<Arrived>) {
    let (sender, receiver) = mpsc::sync_channel(CAPACITY);
    (Outbox(sender), receiver)
}

impl Outbox {
    /// Queues a packet. False if the thread is gone; a full queue drops it silently, as the network may at any time.
    pub(crate) fn push(&self, from: &NodeId, packet: &Packet<'_>) -> bool {
        let arrived = Arrived {
            from: from.clone(),
            header: packet.header,
            body: packet.body.to_vec(),
            at: Instant::now(),
        };
        !matches!(self.0.try_send(arrived), Err(TrySendError::Disconnected(_)))
    }
}

/// What comes to a node that leads: packets for its thread, and the activation under way for those who ask for it.
#[derive(Debug)]
pub(crate) struct LeaderInbox {
    pub(crate) packets: Receiver<Arrived>,
    pub(crate) outgoing: Arc<Outgoing>,
}

/// The network's side of it.
#[derive(Debug, Clone)]
pub(crate) struct LeaderOutbox {
    packets: Outbox,
    outgoing: Arc<Outgoing>,
}

/// An inbox for a leader. `prompt` is whether what was lost is sent again as soon as a worker asks for it.
pub(crate) fn leader_inbox(prompt: bool) -> (LeaderOutbox, LeaderInbox) {
    let (sender, packets) = inbox();
    let outgoing = Arc::new(Outgoing::new(prompt));
    let outbox = LeaderOutbox {
        packets: sender,
        outgoing: Arc::clone(&outgoing),
    };
    (outbox, LeaderInbox { packets, outgoing })
}

impl LeaderOutbox {
    /// Takes a packet. False if the leader is gone.
    pub(crate) fn push(&self, from: &NodeId, packet: &Packet<'_>) -> bool {
        // Asking for what has not been sent yet is no news to the leader.
        if packet.header.kind == Kind::Ask && !self.outgoing.answer(from, packet) {
            return true;
        }
        self.packets.push(from, packet)
    }
}
