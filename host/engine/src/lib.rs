//! The matrix products of a LLaMA-family model, in ONNX Runtime, by neuron group.
//!
//! The graphs are built in memory from a package's weights: per layer one for the attention with its norms and residual
//! ([`Attention`]) and one for the feed-forward groups that this node computes ([`FeedForward`]), and one for the output head
//! ([`Head`]). [`Backbone`] is what the leader of a generation always has of them.
//!
//! All sessions of a process share ONNX Runtime's one global thread pool: a pool per session would have dozens of idle
//! threads spin against the one that works.

#![forbid(unsafe_code)]

mod attention;
mod backbone;
mod engine;
mod error;
mod exp;
mod feed_forward;
mod graph;
mod head;
mod kv_cache;
pub mod library;
mod likeliest;
mod loading;
mod products;
mod rope;
mod slowdown;
mod weights;

/// Target of the `tracing` spans that say what is computed, read or waited for when.
pub const TIMELINE: &str = "halo::timeline";

pub use attention::{Attention, AttentionHeads, Part};
pub use backbone::{AttentionStep, Backbone, Continuation, FeedForwardSource, FeedForwardStep};
pub use engine::{Engine, EngineOptions};
pub use error::EngineError;
pub use feed_forward::{FeedForward, Loaded, Streamed};
pub use head::Head;
pub use kv_cache::KvCache;
pub use likeliest::Likeliest;
pub use loading::{
    Batch, LoadOrder, StreamPlan, packed_backbone_bytes, packed_group_bytes, packed_groups_bytes,
};
pub use products::Products;
