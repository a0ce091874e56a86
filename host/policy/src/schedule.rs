//! What schedulers are asked and what they answer.

use serde::{Deserialize, Serialize};

/// A node of the cluster. Devices are referred to by their index in the list given to
/// [`place`](crate::SchedulerSlot::place).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The node's name, for messages.
    pub name: String,
    /// True for exactly one device, the first: it does all attention and the output head, and holds every group on disk.
    pub leader: bool,
    /// Measured speed, in groups per second.
    pub speed: f32,
    /// Bytes it has for feed-forward groups. A hard limit.
    pub memory: u64,
    /// Round trip to it without computing, in microseconds. 0 for the leader.
    pub delay_us: u32,
    /// Typical deviation of that, in microseconds.
    pub spread_us: u32,
    /// Share of packets lost on the way there and back, 0 to 1.
    pub loss: f32,
}

/// Another device that keeps a group's weights loaded, so that it can take over at once when the owner goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// The group's layer.
    pub layer: u32,
    /// The group within its layer.
    pub group: u32,
    /// Index of the device that stands by.
    pub device: u32,
}

/// Which device computes each group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The device that computes each group: `layers * groups` indices, layer by layer.
    pub owners: Vec<u32>,
    /// Devices that keep other devices' groups loaded.
    pub standbys: Vec<Standby>,
    /// Expected time of one token, in microseconds.
    pub token_us: u32,
}

/// A worker that owes its partial in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Debtor {
    /// Its index among the placement's devices.
    pub device: u32,
    /// Predicted share of this layer's contribution that it computes, 0 to 1. With the leader's own they add up to 1.
    pub share: f32,
    /// When its answer is expected, in microseconds from the moment of sending.
    pub expected_us: u32,
    /// Typical deviation of that, in microseconds.
    pub spread_us: u32,
    /// Share of packets lost on the way there and back, 0 to 1.
    pub loss: f32,
}

/// One fan-out and fan-in, about to begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The layer that is computed.
    pub layer: u32,
    /// Token rows in flight: 1 while decoding, more in prefill.
    pub rows: u32,
    /// The workers that owe a partial.
    pub debtors: Vec<Debtor>,
    /// Share of predicted contribution that this token has gone without so far, averaged over its rounds.
    pub concealed: f32,
}

/// What to do about one debtor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Wait for it until the round's hard bound, rather than for the verdict's patience only.
    pub needed: bool,
    /// How often to send it each activation packet: 1 to 4.
    pub copies: u8,
}

/// Whom a round waits for, and how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// One order a debtor, in the order of [`Round::debtors`].
    pub orders: Vec<Order>,
    /// How long to wait for those that are not needed, in microseconds from the moment of sending.
    pub patience_us: u32,
}
