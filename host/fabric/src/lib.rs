//! Tensors and control messages between nodes over zenoh.
//!
//! There are two planes, each a zenoh session of its own:
//!
//! * the **data plane** carries tensors in single datagrams over UDP. Nothing is sent again by itself: a packet
//!   arrives within a round trip or not at all, and whoever needs it asks again. It is synchronous: any thread
//!   sends, and packets arrive by callback on zenoh's threads.
//! * the **control plane** carries requests and replies over TCP, reliably: JSON, and bytes in bulk behind everything else. It is
//!   asynchronous.
//!
//! | key | what |
//! | --- | --- |
//! | `halo/{cluster}/node/{node}/{session}-{session}` | liveliness token of a member: its sessions for control and for packets |
//! | `halo/{cluster}/alive/{node}` | whether a node is alive |
//! | `halo/{cluster}/control/{node}/{operation}` | requests to a node |
//! | `halo/{cluster}/bulk/{node}/{operation}` | requests that are answered with bytes |
//! | `halo/{cluster}/data/{to}/{from}` | packets of one directed pair of nodes |
//!
//! A tensor of `rows` by `width` values is cut into chunks, each one contiguous range of one row with its own
//! scales, so that any chunk can be used alone. How it is cut is a pure function of its [`TensorShape`].
#![forbid(unsafe_code)]

mod alive;
mod config;
mod connect;
mod control;
mod counters;
mod encoding;
mod endpoint;
mod error;
mod estimate;
mod fabric;
mod faults;
mod heartbeat;
mod linger;
mod link;
mod membership;
mod node_id;
mod parity;
mod receive;
mod roster;
mod session;
mod tensor;
mod threads;
mod vigil;
mod wire;

pub use config::{FabricConfig, Mode, Transport};
pub use control::{Call, Handler, HandlerFuture, Service};
pub use counters::{Counters, Traffic};
pub use encoding::Encoding;
pub use error::{CallError, FabricError, ShapeError, WireError};
pub use estimate::{Estimate, Ewma, LossEstimate, SequenceTracker, TimeEstimate};
pub use fabric::Fabric;
pub use faults::{FaultInjector, Faults, Loss};
pub use link::Link;
pub use node_id::{InvalidName, NodeId};
pub use parity::Parity;
pub use receive::Receiver;
pub use tensor::{Accepted, Assembly, Rejection, TensorShape, WINDOW};
pub use threads::FEW_THREADS;
pub use wire::{
    ASK_PARTIAL, Block, HEADER_BYTES, Header, Kind, MAX_BODY_BYTES, MAX_PACKET_BYTES, Packet, Place,
};
