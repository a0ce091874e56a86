//! Leaders, workers, placement and relaxed synchronisation.
//!
//! A [`Node`] is one host process. It serves: computes neuron groups for leaders, keeping nothing of a generation that it could
//! not lose. And it leads: owns generations, with their tokens, KV caches and sampling, and spreads the feed-forward over the
//! workers by a [`Plan`] that its scheduler made. Each layer of each forward pass is one *round*: the activation goes out in
//! single-datagram chunks, this node computes its own groups meanwhile, partials come back, and what is missing is asked for
//! again or, when it matters little, concealed.

#![forbid(unsafe_code)]

mod alone;
mod arrangement;
mod arrival;
mod assignments;
mod attempt;
mod attending;
mod background;
mod batcher;
mod calm;
mod chosen;
pub mod cluster;
mod concealer;
pub mod config;
mod error;
mod exchange;
mod followed;
mod gathering;
mod generating;
mod generation;
mod generator;
mod heads;
mod inbox;
mod known;
mod leader;
pub mod memory;
mod messages;
mod missed;
mod node;
mod operations;
mod outgoing;
mod pace;
pub mod packages;
mod passes;
mod pieces;
mod ping;
mod plan;
mod plan_slot;
mod planned;
mod planner;
pub mod policies;
mod prefixes;
pub mod rollout;
mod round;
mod sampler;
mod sending;
mod sequence;
pub mod speed;
mod stop_strings;
mod telemetry;
mod temperature;
pub mod timeline;
mod trial;
mod watch;
mod worker;

pub use alone::{ALONE_ROWS, AloneOptions};
pub use arrangement::Arrangement;
pub use batcher::Batcher;
pub use concealer::{Concealer, Concealment};
pub use config::{AttentionPlace, Config, ConfigError, NO_SLOWDOWN, SyncMode, slowdown};
pub use error::{GenerationError, NodeError};
pub use generating::Generating;
pub use generation::{Finish, Report, Request, Source, Token};
pub use generator::{GenerationId, Generator, Progress};
pub use messages::{Choice, Loading, PolicyEntry, PolicyList, PolicyState, Profile, Sequences};
pub use node::{Node, fabric_config};
pub use ping::Pinged;
pub use plan::Plan;
pub use planned::{Planned, PlannedDevice};
pub use policies::Policies;
pub use sampler::{Alternative, Logprobs, OutOfRange, Sampler, Sampling};
pub use telemetry::Counts;
