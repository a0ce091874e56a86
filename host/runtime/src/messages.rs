//! What nodes ask one another on the control plane.

use std::collections::BTreeSet;

use halo_fabric::{Encoding, NodeId, Transport};
use halo_policy::{Change, Digest, Kind, Setting};
use serde::{Deserialize, Serialize};

use crate::pieces::Hex;

/// `profile`: what a node is. Asked with no body.
pub(crate) const PROFILE: &str = "profile";
/// `counters`: what has gone over a node's data plane. Asked with no body.
pub(crate) const COUNTERS: &str = "counters";
/// `loading`: how far a node is with loading what it computes for others. Asked with no body.
pub(crate) const LOADING: &str = "loading";
/// `timeline`: record what you do, and tell it.
pub(crate) const TIMELINE: &str = "timeline";
/// `pace`: how fast does a node compute for me? Asked with the leader's name.
pub(crate) const PACE: &str = "pace";
/// `plan`: what has a node planned that leads? Asked with no body.
pub(crate) const PLAN: &str = "plan";
/// `generating`: what does a node generate that leads? Asked with no body.
pub(crate) const GENERATING: &str = "generating";
/// `assign`: compute these groups for me.
pub(crate) const ASSIGN: &str = "assign";
/// `model-offer`: which package do you compute with? Asked with no body.
pub(crate) const MODEL_OFFER: &str = "model-offer";
/// `model-take`: take this package.
pub(crate) const MODEL_TAKE: &str = "model-take";
/// `model-taking`: how far are you with taking this package?
pub(crate) const MODEL_TAKING: &str = "model-taking";
/// `model-list`, in bulk: give me the list of a package's pieces.
pub(crate) const MODEL_LIST: &str = "model-list";
/// `model-piece`, in bulk: give me this piece of a package.
pub(crate) const MODEL_PIECE: &str = "model-piece";
/// `policy-list`: which policies a node has.
pub(crate) const POLICY_LIST: &str = "policy-list";
/// `policy-state`: which policies are in force, and were. Asked with no body.
pub(crate) const POLICY_STATE: &str = "policy-state";
/// `policy-inspect`: what is one of a node's policies?
pub(crate) const POLICY_INSPECT: &str = "policy-inspect";
/// `policy-recording`: what were the policies in force asked last? Asked with no body.
pub(crate) const POLICY_RECORDING: &str = "policy-recording";
/// `policy-push`: keep this piece of a component.
pub(crate) const POLICY_PUSH: &str = "policy-push";
/// `policy-fetch`: give me a piece of a component.
pub(crate) const POLICY_FETCH: &str = "policy-fetch";
/// `policy-try`: would this policy do?
pub(crate) const POLICY_TRY: &str = "policy-try";
/// `policy-activate`: put this policy in force.
pub(crate) const POLICY_ACTIVATE: &str = "policy-activate";

/// What a node is and can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub node: NodeId,
    /// HALO's version on it.
    pub version: String,
    /// Its processor's architecture.
    pub architecture: String,
    /// Its processor's cores.
    #[serde(default)]
    pub cores: usize,
    /// Threads that compute.
    pub threads: usize,
    /// Whether it computes for others.
    pub serves: bool,
    /// What its model's weights are; see `Package::identity`. Nothing if it has none yet.
    pub model: String,
    /// Measured speed with this model, in neuron groups per second.
    pub speed: f32,
    /// Bytes it has for feed-forward groups.
    pub memory: u64,
    /// What it sends tensors over.
    #[serde(default)]
    pub transport: Transport,
    /// The temperature of its hottest part when it was asked, in degrees Celsius, if it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
}

impl Profile {
    /// Why this worker cannot compute for a leader that sends tensors over something else.
    pub(crate) fn misfit(&self, leader: &Self) -> Option<String> {
        (self.transport != leader.transport).then(|| {
            format!(
                "{} sends tensors over {} and {} over {}; start all nodes of a cluster with the same --transport",
                self.node, self.transport, leader.node, leader.transport
            )
        })
    }
}

/// How far a node is with loading the neuron groups that leaders have asked it to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loading {
    /// Bytes of the groups in each leader's latest placement.
    pub assigned: u64,
    /// Bytes of them that are in memory.
    pub loaded: u64,
}

/// A leader's wish that a worker computes groups for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Assign {
    pub(crate) leader: NodeId,
    pub(crate) epoch: u32,
    /// Earlier epochs that rounds may still be under way on. All others may be forgotten.
    pub(crate) keep: BTreeSet<u32>,
    /// The weights meant; a worker with others refuses.
    pub(crate) model: String,
    /// For each layer the groups to compute.
    pub(crate) groups: Vec<Vec<u32>>,
    /// For each layer the groups whose weights to keep at hand.
    pub(crate) standbys: Vec<Vec<u32>>,
    /// Its part of the attention, if that is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) heads: Option<Heads>,
    /// How activations will come and partials shall go.
    pub(crate) activation: Encoding,
    pub(crate) partial: Encoding,
}

/// A worker's part of the attention. One that it has already goes on with the KV caches that it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Heads {
    /// The epoch from which on all texts' keys and values have come to it.
    pub(crate) since: u32,
    /// For each layer the KV heads to compute.
    pub(crate) heads: Vec<Vec<u32>>,
    /// Do not answer where a token before is missing, rather than leave it out.
    pub(crate) whole: bool,
}

/// A policy that a node has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyEntry {
    /// Its name.
    pub name: String,
    /// Scheduler or predictor.
    pub kind: Kind,
    /// SHA-256 of the component. `None` for the built-in rule.
    pub digest: Option<Digest>,
    /// In force on this node.
    pub active: bool,
    /// Where it comes from: "built in", or a file.
    pub origin: String,
    /// Calls without a usable result, as far back as its node's history goes.
    pub faults: u64,
}

/// A node's policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyList {
    /// All it has.
    pub policies: Vec<PolicyEntry>,
    /// The latest changes that it knows of.
    pub sequence: Sequences,
}

/// Numbers of the latest changes in a cluster, by kind. Each change has another number, and the highest is the latest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequences {
    /// Of the scheduler in force.
    pub scheduler: u64,
    /// Of the predictor in force.
    pub predictor: u64,
}

impl Sequences {
    /// Of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Scheduler => self.scheduler,
            Kind::Predictor => self.predictor,
        }
    }

    pub(crate) fn set(&mut self, kind: Kind, sequence: u64) {
        match kind {
            Kind::Scheduler => self.scheduler = sequence,
            Kind::Predictor => self.predictor = sequence,
        }
    }
}

/// What is in force on a node, and was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyState {
    /// The latest changes that it knows of.
    pub sequence: Sequences,
    /// Its schedulers, oldest first; the last is in force.
    pub scheduler: Vec<Change>,
    /// Its predictors, oldest first; the last is in force.
    pub predictor: Vec<Change>,
}

impl PolicyState {
    /// What has been in force of one kind.
    pub fn history(&self, kind: Kind) -> &[Change] {
        match kind {
            Kind::Scheduler => &self.scheduler,
            Kind::Predictor => &self.predictor,
        }
    }
}

/// A policy that is to be used, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Scheduler or predictor.
    pub kind: Kind,
    /// The policy's name.
    pub name: String,
    /// SHA-256 of the component. `None` for the built-in rule.
    pub digest: Option<Digest>,
    /// What it is told. If nothing, each node's configuration says what.
    pub settings: Vec<Setting>,
}

/// Put a policy in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Activate {
    pub(crate) choice: Choice,
    /// Whether that is to go back to it.
    pub(crate) back: bool,
    pub(crate) sequence: u64,
}

/// Keep this piece of a component. With no bytes: how much of it have you?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Push {
    pub(crate) name: String,
    /// Of the whole component.
    pub(crate) digest: Digest,
    /// Bytes of the whole component.
    pub(crate) size: u64,
    /// Where in it the piece begins.
    pub(crate) offset: u64,
    pub(crate) piece: Hex,
}

/// How much of a component a node has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pushed {
    /// Bytes from the beginning; all of them once the component is there, whole and found to be a policy.
    pub(crate) have: u64,
    /// Why it is in memory only, if it could not be saved.
    pub(crate) unsaved: Option<String>,
}

/// Give me the piece of a component that begins there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub(crate) digest: Digest,
    pub(crate) offset: u64,
}

/// A piece of a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// Bytes of the whole component.
    pub(crate) size: u64,
    pub(crate) piece: Hex,
}
