//! The activation of the round under way, for those who ask for it again.
//!
//! What a worker asks for is sent by the network's own threads, since the leader's computes its groups meanwhile, and a worker
//! that waits for an activation does not.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halo_fabric::{
    HEADER_BYTES, Header, Kind, Link, NodeId, Packet, Parity, Place, TensorShape, WINDOW,
};

use crate::missed::Missed;
use crate::sending::Sending;

/// A round's activation as it goes out.
#[derive(Debug)]
pub(crate) struct Sent {
    header: Header,
    chunks: Vec<Vec<u8>>,
    /// The body of the chunks' parity, if there are few and their rows need no places, or only the one.
    parity: Option<Vec<u8>>,
    began: Instant,
    recipients: Vec<Recipient>,
}

/// Whom an activation is sent to.
#[derive(Debug)]
pub(crate) struct Recipient {
    node: NodeId,
    link: Arc<Link>,
    /// How often each packet is sent, there and back; 0 if it is gone.
    copies: u8,
    /// The first chunk that has not been sent at all.
    next: AtomicU16,
}

impl Recipient {
    pub(crate) fn new(node: NodeId, link: Arc<Link>, copies: u8) -> Self {
        Self {
            node,
            link,
            copies,
            next: AtomicU16::new(0),
        }
    }
}

impl Sent {
    /// Encodes an activation; the round begins now. Of `header` only what names the round counts.
    ///
    /// `places` are those of an attention's rows.
    pub(crate) fn new(
        shape: &TensorShape,
        values: &[f32],
        header: &Header,
        places: &[Place],
        recipients: Vec<Recipient>,
    ) -> Self {
        let began = Instant::now();
        let of_tensor = Header::of_tensor(Kind::Activation, shape);
        let header = Header {
            layer: header.layer,
            block: header.block,
            generation: header.generation,
            epoch: header.epoch,
            step: header.step,
            ..of_tensor
        };
        let placed = |row: usize| {
            let mut body = Vec::new();
            if let Some(place) = places.get(row) {
                place.write(&mut body);
            }
            body
        };
        let mut parity = Parity::new(shape).filter(|_| places.len() <= 1);
        let chunk = |chunk| {
            let mut body = placed(shape.row(chunk));
            let place = body.len();
            shape.encode_chunk(chunk, values, &mut body);
            if let Some(parity) = &mut parity {
                parity.add(&body[place..]);
            }
            body
        };
        let chunks = (0..shape.chunks()).map(chunk).collect();
        let parity = parity.map(|parity| [&placed(0), parity.body()].concat());
        Self {
            header,
            chunks,
            parity,
            began,
            recipients,
        }
    }

    /// Its header, without a chunk's number.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Time since the round began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Time from when the round began.
    pub(crate) fn until(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.began)
    }

    /// Whether a packet belongs to this round.
    pub(crate) fn is_of(&self, header: &Header) -> bool {
        let name = |h: &Header| (h.generation, h.epoch, h.step, h.layer, h.block);
        name(header) == name(&self.header)
    }

    /// Whom it was sent to, by their order.
    pub(crate) fn node(&self, recipient: usize) -> &NodeId {
        &self.recipients[recipient].node
    }
}

/// Sends the round's packets, and counts them.
#[derive(Debug)]
pub(crate) struct Outgoing {
    under_way: Mutex<Option<Arc<Sent>>>,
    /// Of rounds that are over, what workers may have missed.
    pub(crate) missed: Missed,
    /// Whether what was lost is sent again as soon as it is asked for, rather than when this node has noticed.
    prompt: bool,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Outgoing {
    pub(crate) fn new(prompt: bool) -> Self {
        Self {
            under_way: Mutex::default(),
            missed: Missed::default(),
            prompt,
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Whether what was lost is sent again as soon as it is asked for.
    pub(crate) fn is_prompt(&self) -> bool {
        self.prompt
    }

    /// Begins a round: sends everybody the first packets.
    pub(crate) fn begin(&self, sent: &Arc<Sent>) {
        self.set(Some(Arc::clone(sent)));
        for recipient in &sent.recipients {
            self.send_first(sent, recipient, 0);
        }
    }

    /// Ends it: whoever asks now asks in vain.
    pub(crate) fn end(&self) {
        self.set(None);
    }

    fn set(&self, sent: Option<Arc<Sent>>) {
        *self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = sent;
    }

    /// Sends the first packets again, in answer to an asking.
    pub(crate) fn repeat(&self, sent: &Sent, recipient: usize, asking: usize) {
        self.send_first(sent, &sent.recipients[recipient], asking);
    }

    fn send_first(&self, sent: &Sent, recipient: &Recipient, asking: usize) {
        let window = usize::from(WINDOW);
        let first = sent.chunks.len().min(window) as u16;
        recipient.next.fetch_max(first, Ordering::Relaxed);
        let parity = sent
            .parity
            .as_ref()
            .filter(|_| self.prompt && recipient.link.is_lossy());
        let header = Header {
            parity: parity.is_some(),
            ..sent.header
        };
        let bodies = sent.chunks.iter().take(window).map(Vec::as_slice);
        let bodies = bodies.chain(parity.map(Vec::as_slice));
        for (chunk, body) in (0..).zip(bodies) {
            self.send_chunk(recipient, Header { chunk, ..header }, body, asking);
        }
    }

    /// Sends a worker of the round under way what it asks for. True if any of that had been sent before, and was lost.
    pub(crate) fn answer(&self, from: &NodeId, packet: &Packet<'_>) -> bool {
        let under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let under_way = under_way.filter(|sent| sent.is_of(&packet.header));
        let Some(sent) = under_way.or_else(|| self.missed.find(&packet.header)) else {
            return false;
        };
        let Some(recipient) = sent.recipients.iter().find(|r| r.node == *from) else {
            return false;
        };
        let mut lost = false;
        for chunk in packet.asked() {
            let sent_before = chunk < recipient.next.fetch_max(chunk + 1, Ordering::Relaxed);
            lost |= sent_before;
            if let Some(body) = sent.chunks.get(usize::from(chunk))
                && (self.prompt || !sent_before)
            {
                let header = Header {
                    chunk,
                    ..sent.header
                };
                self.send_chunk(recipient, header, body, 0);
            }
        }
        lost
    }

    fn send_chunk(&self, recipient: &Recipient, header: Header, body: &[u8], asking: usize) {
        let flags = Sending::answer_to(asking, recipient.copies).flags();
        for _ in 0..recipient.copies {
            self.send(&recipient.link, Header { flags, ..header }, body);
        }
    }

    /// Sends one packet.
    pub(crate) fn send(&self, link: &Link, header: Header, body: &[u8]) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes
            .fetch_add((HEADER_BYTES + body.len()) as u64, Ordering::Relaxed);
        link.send(header, body);
    }

    /// Packets sent, and the bytes of them.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (get(&self.packets), get(&self.bytes))
    }
}
