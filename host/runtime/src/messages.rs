//! What nodes ask one another on the control plane.

use std::collections::BTreeSet;

use halo_fabric::{Encoding, NodeId};
use halo_policy::{Digest, Kind, Setting};
use serde::{Deserialize, Serialize};

use crate::cluster::Bytes;

/// `profile`: what a node is. Asked with no body.
pub(crate) const PROFILE: &str = "profile";
/// `counters`: what has gone over a node's data plane. Asked with no body.
pub(crate) const COUNTERS: &str = "counters";
/// `assign`: compute these groups for me.
pub(crate) const ASSIGN: &str = "assign";
/// `policy-list`: which policies a node has and which are in force.
pub(crate) const POLICY_LIST: &str = "policy-list";
/// `policy-activate`: put this policy in force.
pub(crate) const POLICY_ACTIVATE: &str = "policy-activate";
/// `policy-fetch`: give me the bytes of a component.
pub(crate) const POLICY_FETCH: &str = "policy-fetch";

/// What a node is and can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub node: NodeId,
    /// HALO's version on it.
    pub version: String,
    /// Its processor's architecture.
    pub architecture: String,
    /// Threads that compute.
    pub threads: usize,
    /// Whether it computes for others.
    pub serves: bool,
    /// What its model's weights are; see `Package::identity`.
    pub model: String,
    /// Measured speed with this model, in neuron groups per second.
    pub speed: f32,
    /// Bytes it has for feed-forward groups.
    pub memory: u64,
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
    /// How activations will come and partials shall go.
    pub(crate) activation: Encoding,
    pub(crate) partial: Encoding,
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
    /// Times it failed since it came into force.
    pub faults: u64,
}

/// A node's policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyList {
    /// All it has.
    pub policies: Vec<PolicyEntry>,
    /// Rises with every change in the cluster: the highest is the latest.
    pub sequence: u64,
}

/// Put a policy in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Activate {
    pub(crate) name: String,
    /// What its bytes must be.
    pub(crate) digest: Digest,
    /// The bytes, for nodes that do not have them.
    pub(crate) component: Option<Bytes>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) sequence: u64,
}

/// Give me the component with this digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fetch {
    pub(crate) digest: Digest,
}
