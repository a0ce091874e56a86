//! What a component says about itself, and what it may use here.

use serde::{Deserialize, Serialize};

use crate::{Component, Digest, Kind, Limits};

/// What is to be known about a policy without running it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Its name.
    pub name: String,
    /// What it decides.
    pub kind: Kind,
    /// The version of the contract, `halo:policy`, that it was built for.
    pub version: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: usize,
    /// The interfaces it imports.
    pub imports: Vec<String>,
    /// The interfaces it exports.
    pub exports: Vec<String>,
    /// What it may use on this machine.
    pub limits: Limits,
}

impl Inspection {
    /// Describes a component that would run within these limits.
    pub fn new(component: &Component, limits: &Limits) -> Self {
        Self {
            name: component.name().to_owned(),
            kind: component.kind(),
            version: component.version().to_owned(),
            digest: component.digest(),
            size: component.size(),
            imports: component.imports().to_vec(),
            exports: component.exports().to_vec(),
            limits: limits.clone(),
        }
    }
}
