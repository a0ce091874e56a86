//! Pings and pongs on the data plane.
//!
//! Every node pings every member four times a second, and one that is cut off on the control plane more often. A ping carries the
//! sender's own clock, and the pong carries it back, so round trips are measured without comparing clocks. A pong also says
//! how many of the pinging node's packets have arrived and how many are missing, so each side knows the loss of both ways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::receive::DataPlane;
use crate::roster::Roster;
use crate::session::Sessions;
use crate::vigil::{Finding, Vigil};
use crate::wire::{PING_BYTES, PONG_BYTES};
use crate::{Header, Kind, Link, NodeId, alive};

/// Time between two pings to one node.
const PERIOD: Duration = Duration::from_millis(250);

/// Time between two pings to a node whose connection has gone: it has died, or the network is disturbed, and the sooner that
/// is known the better.
const CUT_PERIOD: Duration = Duration::from_millis(60);

/// Pings to a new member, before it is planned with, and the time between them: one that was held up says little of the way.
const FIRST_PINGS: u32 = 8;
const FIRST_PERIOD: Duration = Duration::from_millis(15);

/// A pong that took longer than this is not of a ping of ours, or says nothing any more.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(10);

/// What a pong says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pong {
    /// The ping's clock, in microseconds.
    pub(crate) echoed: u64,
    /// Packets that have come from the pinging node.
    pub(crate) received: u64,
    /// Packets that have not.
    pub(crate) lost: u64,
}

/// A pong's body.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPong {
    echoed: U64,
    received: U64,
    lost: U64,
}

const _: () = assert!(size_of::<RawPong>() == PONG_BYTES);

impl Pong {
    fn parse(body: &[u8]) -> Option<Self> {
        let raw = RawPong::ref_from_bytes(body).ok()?;
        Some(Self {
            echoed: raw.echoed.get(),
            received: raw.received.get(),
            lost: raw.lost.get(),
        })
    }
}

/// Sends a ping.
fn ping(link: &Link, plane: &DataPlane) {
    link.send(
        Header::of_heartbeat(Kind::Ping),
        &plane.micros().to_le_bytes(),
    );
}

/// Sends some pings to a new member.
async fn get_to_know(link: Arc<Link>, plane: Arc<DataPlane>) {
    for _ in 0..FIRST_PINGS {
        ping(&link, &plane);
        tokio::time::sleep(FIRST_PERIOD).await;
    }
}

/// Answers a ping.
pub(crate) fn answer_ping(link: &Link, body: &[u8]) {
    let Ok(clock) = <[u8; PING_BYTES]>::try_from(body) else {
        return;
    };
    let (received, lost) = link.totals();
    let raw = RawPong {
        echoed: U64::from_bytes(clock),
        received: received.into(),
        lost: lost.into(),
    };
    link.send(Header::of_heartbeat(Kind::Pong), raw.as_bytes());
}

/// Takes in a pong.
pub(crate) fn take_pong(link: &Link, plane: &DataPlane, body: &[u8]) {
    let Some(pong) = Pong::parse(body) else {
        return;
    };
    let Some(micros) = plane.micros().checked_sub(pong.echoed) else {
        return;
    };
    let round_trip = Duration::from_micros(micros);
    if round_trip <= LONGEST_ROUND_TRIP {
        link.ponged(&pong, round_trip);
    }
}

/// Pings members until the fabric closes, keeps vigil over them, opens links to nodes from which packets come, and says again that
/// packets are wanted to those from which none come.
pub(crate) async fn run(
    plane: Arc<DataPlane>,
    sessions: Sessions,
    roster: Arc<Roster>,
    mut strangers: mpsc::Receiver<NodeId>,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hurried = tokio::time::interval(CUT_PERIOD);
    hurried.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut vigils = BTreeMap::<NodeId, Vigil>::new();
    let mut questions = JoinSet::new();
    let mut wanted = BTreeMap::new();
    let mut members = roster.members();
    let link = |node: &NodeId| {
        let link = plane.link(&sessions, node);
        link.inspect_err(|error| tracing::debug!(%node, %error, "not pinged"))
    };
    loop {
        tokio::select! {
            // Whoever is new is pinged at once.
            Ok(()) = members.changed() => ticks.reset_immediately(),
            stranger = strangers.recv() => {
                // Anybody can write any name into a packet.
                let member = stranger.filter(|node| roster.announced().contains(node));
                if let Some(link) = member.and_then(|node| link(&node).ok()) {
                    ping(&link, &plane);
                }
            }
            Some(Ok((node, answered))) = questions.join_next() => {
                let Some(vigil) = vigils.get_mut(&node) else { continue };
                roster.judge(&node, vigil.answered(answered));
                if answered {
                    // It is there, and does not know that its packets are wanted.
                    drop(wanted.remove(&node));
                    match plane.want(&sessions.data, &node).await {
                        Ok(subscriber) => drop(wanted.insert(node, subscriber)),
                        Err(error) => tracing::debug!(%node, %error, "not asked for packets"),
                    }
                }
            }
            _ = hurried.tick() => {
                for (node, vigil) in vigils.iter_mut().filter(|(node, _)| roster.is_cut(node)) {
                    let Ok(link) = link(node) else { continue };
                    roster.judge(node, vigil.tick_if_cut(link.last_heard()));
                    ping(&link, &plane);
                }
            }
            _ = ticks.tick() => {
                let mut announced = roster.announced();
                announced.retain(|node| *node != plane.node);
                vigils.retain(|node, _| announced.contains(node));
                wanted.retain(|node, _| announced.contains(node));
                for node in announced {
                    let Ok(link) = link(&node) else { continue };
                    let vigil = vigils.entry(node.clone()).or_default();
                    if vigil.is_news(link.last_heard().is_some()) {
                        tokio::spawn(get_to_know(Arc::clone(&link), Arc::clone(&plane)));
                    }
                    let finding = vigil.tick(link.last_heard());
                    ping(&link, &plane);
                    if finding == Finding::Ask {
                        questions.spawn(alive::ask(sessions.control.clone(), plane.cluster.clone(), node));
                    } else {
                        roster.judge(&node, finding);
                    }
                }
            }
        }
    }
}
