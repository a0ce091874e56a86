//! A policy that was compiled and found to fit one of the two worlds.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use crate::{
    Digest,
    contract::{PredictorWorld, SchedulerWorld},
    sandbox::world_of,
};

/// What a policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Who computes what, and whom to wait for.
    Scheduler,
    /// How much each neuron group will matter.
    Predictor,
}

impl Kind {
    /// What a component's exports say it is, without compiling it: enough to list it, not to use it. `None` if it is no
    /// policy.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut exports = Vec::new();
        // Sections of modules and components within it are none of its own.
        let mut depth = 0u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.ok()? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        exports.push(export.ok()?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Some(world_of(&exports).ok()?.0)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scheduler => "scheduler",
            Self::Predictor => "predictor",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "scheduler" => Ok(Self::Scheduler),
            "predictor" => Ok(Self::Predictor),
            _ => Err(format!(
                "{text:?} is no kind of policy: scheduler and predictor are"
            )),
        }
    }
}

/// A compiled policy, ready to be put in force. Made by [`Sandbox::compile`](crate::Sandbox::compile); cheap to clone.
#[derive(Clone)]
pub struct Component {
    pub(crate) name: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) digest: Digest,
    pub(crate) size: usize,
    pub(crate) imports: Arc<[String]>,
    pub(crate) exports: Arc<[String]>,
    pub(crate) precompiled: bool,
    pub(crate) world: World,
}

/// The component, linked and checked against its world.
#[derive(Clone)]
pub(crate) enum World {
    Scheduler(Arc<dyn SchedulerWorld>),
    Predictor(Arc<dyn PredictorWorld>),
}

impl Component {
    /// The name it was compiled under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the WIT package `halo:policy` that it was built for.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// SHA-256 of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether it is a scheduler or a predictor.
    pub fn kind(&self) -> Kind {
        match self.world {
            World::Scheduler(_) => Kind::Scheduler,
            World::Predictor(_) => Kind::Predictor,
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The interfaces it imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// The interfaces it exports.
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// Whether it was compiled at an earlier time; see [`Sandbox::keeping`](crate::Sandbox::keeping).
    pub fn precompiled(&self) -> bool {
        self.precompiled
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("name", &self.name)
            .field("kind", &self.kind())
            .field("version", &self.version)
            .field("digest", &self.digest)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
