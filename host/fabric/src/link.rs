//! The way to another node, on the data plane.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use zenoh::Wait as _;
use zenoh::pubsub::Publisher;
use zenoh::qos::{CongestionControl, Priority, Reliability};
use zenoh::sample::Locality;

use crate::counters::LiveCounters;
use crate::heartbeat::Pong;
use crate::session::Sessions;
use crate::{
    Estimate, FabricError, Header, Kind, LossEstimate, NodeId, SequenceTracker, TimeEstimate,
    Transport,
};

/// Share of packets lost, one way or the other, from which a parity packet after a few others costs less than asking again.
const LOSSY: f64 = 0.005;

/// The way to another node: sends packets, and knows what has been observed of the way there and back.
///
/// Cheap to keep, and safe to use from any thread.
#[derive(Debug)]
pub struct Link {
    to: NodeId,
    publisher: Publisher<'static>,
    /// What tensors go over instead, if that is TCP.
    reliable: Option<Publisher<'static>>,
    sequence: AtomicU32,
    counters: Arc<LiveCounters>,
    observed: Mutex<Observed>,
}

/// What has been observed of a link.
#[derive(Debug, Default)]
struct Observed {
    from: SequenceTracker,
    round_trip: TimeEstimate,
    /// The other side's totals of received and lost packets, as it told us last.
    told: Option<(u64, u64)>,
    to: LossEstimate,
    last_heard: Option<Instant>,
}

impl Link {
    /// Declares the publisher of one directed pair of nodes.
    pub(crate) fn open(
        sessions: &Sessions,
        key: String,
        to: NodeId,
        tensors: Transport,
        counters: Arc<LiveCounters>,
    ) -> Result<Self, FabricError> {
        let publisher = |session: &zenoh::Session, reliability, congestion_control| {
            session
                .declare_publisher(key.clone())
                .congestion_control(congestion_control)
                .priority(Priority::RealTime)
                .express(true)
                .reliability(reliability)
                .allowed_destination(Locality::Remote)
                .wait()
                .map_err(|reason| FabricError::zenoh(format!("open the link to `{to}`"), &reason))
        };
        let reliable = match tensors {
            Transport::Udp => None,
            Transport::Tcp => Some(publisher(
                &sessions.control,
                Reliability::Reliable,
                CongestionControl::Block,
            )?),
        };
        Ok(Self {
            publisher: publisher(
                &sessions.data,
                Reliability::BestEffort,
                CongestionControl::Drop,
            )?,
            reliable,
            to,
            // A random beginning, so that the other side can tell a restart of this node from a loss.
            sequence: AtomicU32::new(rand::random()),
            counters,
            observed: Mutex::default(),
        })
    }

    /// The node at the other end.
    #[must_use]
    pub fn to(&self) -> &NodeId {
        &self.to
    }

    /// Sends one packet, once.
    ///
    /// It may be lost on its way, here or on the network, and nobody says so. While the network cannot keep up the
    /// call blocks for at most half a millisecond before the packet is thrown away. A packet whose header does not
    /// fit its body is not sent, but counted in [`Counters::send_failures`](crate::Counters::send_failures).
    pub fn send(&self, header: Header, body: &[u8]) {
        if let Err(error) = header.check(body) {
            tracing::error!(to = %self.to, ?header, %error, "not a valid packet, not sent");
            self.counters.send_failure();
            return;
        }
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let packet = header.write_checked(sequence, body);
        let bytes = packet.len();
        let publisher = match header.kind {
            Kind::Ping | Kind::Pong => &self.publisher,
            Kind::Activation | Kind::Partial | Kind::Ask => {
                self.reliable.as_ref().unwrap_or(&self.publisher)
            }
        };
        match publisher.put(packet).wait() {
            Ok(()) => self.counters.sent(header.kind, bytes),
            Err(error) => {
                tracing::debug!(to = %self.to, %error, "packet not sent");
                self.counters.send_failure();
            }
        }
    }

    /// What is known of the way there and back.
    #[must_use]
    pub fn estimate(&self) -> Estimate {
        self.with_observed(|observed| {
            let micros = |d: std::time::Duration| d.as_secs_f64() * 1e6;
            Estimate {
                round_trip_us: observed.round_trip.mean().map(micros),
                spread_us: observed.round_trip.spread().map(micros),
                shortest_us: observed.round_trip.shortest().map(micros),
                median_us: observed.round_trip.median().map(micros),
                loss_to: observed.to.share(),
                loss_from: observed.from.share(),
                last_heard: observed.last_heard.map(|heard| heard.elapsed()),
            }
        })
    }

    /// Whether so many packets are lost, there or back, that tensors are better sent with their [parity](crate::Parity).
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        let over = |share: Option<f64>| share.is_some_and(|share| share >= LOSSY);
        self.reliable.is_none()
            && self
                .with_observed(|observed| over(observed.to.share()) || over(observed.from.share()))
    }

    /// When any valid packet came from the other side.
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        self.with_observed(|observed| observed.last_heard)
    }

    /// Takes in that a valid packet has come from the other side.
    pub(crate) fn heard(&self, sequence: u32, now: Instant) {
        self.with_observed(|observed| {
            observed.from.observe(sequence);
            observed.last_heard = Some(now);
        });
    }

    /// Packets received from the other side and lost on the way.
    pub(crate) fn totals(&self) -> (u64, u64) {
        self.with_observed(|observed| (observed.from.received(), observed.from.lost()))
    }

    /// Takes in an answer to a ping.
    pub(crate) fn ponged(&self, pong: &Pong, round_trip: std::time::Duration) {
        self.with_observed(|observed| {
            observed.round_trip.observe(round_trip);
            // Smaller totals than before come from a node that has begun anew.
            if let Some((received, lost)) = observed.told.filter(|told| told.0 <= pong.received) {
                observed
                    .to
                    .observe(pong.received - received, pong.lost.saturating_sub(lost));
            }
            observed.told = Some((pong.received, pong.lost));
        });
    }

    fn with_observed<R>(&self, f: impl FnOnce(&mut Observed) -> R) -> R {
        // Observations are whole after every step, so a panic elsewhere leaves nothing half done.
        f(&mut self.observed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
