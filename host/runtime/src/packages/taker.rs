//! The side that lacks a package.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use halo_fabric::{Fabric, NodeId};
use halo_models::{Package, PackageCache};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use super::Wanted;
use super::fetch::fetch;

/// How it stands with a package at a node that was to take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Taking {
    /// It computes with it.
    Serves,
    /// It has it, and is about to begin anew with it.
    Complete,
    /// It fetches it.
    Fetches {
        /// From this node; nobody yet, if nothing.
        from: Option<NodeId>,
        /// Bytes that are there.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It cannot have it.
    Failed {
        /// Why.
        why: String,
    },
}

/// Nodes that are remembered as having a package.
const MAX_GIVERS: usize = 8;

/// The package taken last.
#[derive(Debug)]
struct Latest {
    wanted: Wanted,
    taking: Taking,
    /// Who said that they give it, the latest first.
    givers: VecDeque<NodeId>,
}

/// Takes packages, one at a time. Clones are the same taker.
#[derive(Debug, Clone)]
pub(crate) struct Taker {
    fabric: Fabric,
    cache: Option<PackageCache>,
    /// The weights that this node computes with.
    own: Option<String>,
    latest: Arc<Mutex<Option<Latest>>>,
    taken: Arc<watch::Sender<Option<Package>>>,
}

impl Taker {
    pub(crate) fn new(fabric: Fabric, cache: Option<PackageCache>, own: Option<&Package>) -> Self {
        Self {
            fabric,
            cache,
            own: own.map(|package| package.identity().to_owned()),
            latest: Arc::default(),
            taken: Arc::new(watch::Sender::new(None)),
        }
    }

    /// The package taken last, and every further one.
    pub(crate) fn taken(&self) -> watch::Receiver<Option<Package>> {
        self.taken.subscribe()
    }

    /// Takes a package, which this node gives. Returns at once.
    pub(crate) fn take(&self, wanted: Wanted, from: Option<NodeId>) -> Result<Taking, String> {
        if self.own.as_ref() == Some(&wanted.identity) {
            return Ok(Taking::Serves);
        }
        let Some(cache) = self.cache.clone() else {
            return Err("this node keeps no packages that others give".into());
        };
        let mut latest = self.latest();
        match &mut *latest {
            Some(same) if same.wanted == wanted && !same.has_failed() => {
                same.givers.extend(from);
                same.givers.rotate_right(1);
                same.givers.truncate(MAX_GIVERS);
                return Ok(same.taking.clone());
            }
            Some(Latest {
                wanted: other,
                taking: Taking::Fetches { .. },
                ..
            }) => {
                let other = &other.name;
                return Err(format!("it is fetching {other}; try again when it has it"));
            }
            _ => {}
        }
        let taking = Taking::Fetches {
            from: None,
            done: 0,
            total: 0,
        };
        *latest = Some(Latest {
            wanted: wanted.clone(),
            taking: taking.clone(),
            givers: from.into_iter().collect(),
        });
        drop(latest);
        tokio::spawn(self.clone().fetch(cache, wanted));
        Ok(taking)
    }

    /// How it stands with a package; nothing if nobody wanted this node to take it.
    pub(crate) fn taking(&self, wanted: &Wanted) -> Option<Taking> {
        if self.own.as_ref() == Some(&wanted.identity) {
            return Some(Taking::Serves);
        }
        let latest = self.latest();
        let latest = latest.as_ref().filter(|latest| latest.wanted == *wanted)?;
        Some(latest.taking.clone())
    }

    async fn fetch(self, cache: PackageCache, wanted: Wanted) {
        let tell = |from: &NodeId, done, total| {
            self.set(Taking::Fetches {
                from: Some(from.clone()),
                done,
                total,
            });
        };
        let givers = || self.givers();
        match fetch(&self.fabric, &cache, &wanted, &givers, &tell).await {
            Ok(package) => {
                info!(model = package.name(), "package complete");
                self.set(Taking::Complete);
                self.taken.send_replace(Some(package));
            }
            Err(error) => {
                warn!(model = wanted.name, "package not taken: {error}");
                let why = error.to_string();
                self.set(Taking::Failed { why });
            }
        }
    }

    /// How it stands with the latest. Only one is fetched at a time, so that is the one meant.
    fn set(&self, now: Taking) {
        if let Some(latest) = &mut *self.latest() {
            latest.taking = now;
        }
    }

    fn givers(&self) -> Vec<NodeId> {
        let latest = self.latest();
        let givers = latest.iter().flat_map(|latest| &latest.givers);
        givers.cloned().collect()
    }

    fn latest(&self) -> MutexGuard<'_, Option<Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latest {
    fn has_failed(&self) -> bool {
        matches!(self.taking, Taking::Failed { .. })
    }
}
