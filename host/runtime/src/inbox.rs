//! From the network's threads to those that compute.

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use halo_fabric::{Header, NodeId, Packet};

/// Packets that may wait. A prefill burst of 32 rows is a few hundred; what does not fit is lost like on the network, and
/// asked for again.
const CAPACITY: usize = 8192;

/// A packet that has left the network's buffers.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) from: NodeId,
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
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
        };
        !matches!(self.0.try_send(arrived), Err(TrySendError::Disconnected(_)))
    }
}
