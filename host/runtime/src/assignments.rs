//! What this node has agreed to compute for leaders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use halo_engine::{Engine, EngineError, FeedForward};
use halo_fabric::{Encoding, NodeId};
use halo_models::Package;

use crate::attending::Attending;
use crate::messages::{Assign, Heads, Loading};
use crate::pace::Paces;
use crate::{heads, memory};

/// Placements kept for one leader: the one in force, the one that it is offered, and the one that is about to be.
const EPOCHS: usize = 3;

/// Groups that this node computes for a leader.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) feed_forward: FeedForward,
    /// Shared with this leader's other placements that leave its heads where they are.
    pub(crate) attending: Option<Arc<Mutex<Attending>>>,
    pub(crate) activation: Encoding,
    pub(crate) partial: Encoding,
    /// The number of groups in each layer.
    pub(crate) counts: Vec<usize>,
    bytes: u64,
}

type Assigned = BTreeMap<NodeId, BTreeMap<u32, Arc<Mutex<Assignment>>>>;

/// All of them, by leader and epoch.
#[derive(Debug, Clone)]
pub(crate) struct Assignments {
    engine: Engine,
    package: Package,
    memory: u64,
    assigned: Arc<Mutex<Assigned>>,
    /// Of each leader's latest placement.
    loading: Arc<Mutex<BTreeMap<NodeId, Loading>>>,
    /// What has been computed for each leader.
    paces: Arc<Paces>,
}

impl Assignments {
    pub(crate) fn new(engine: Engine, package: Package, memory: u64) -> Self {
        Self {
            engine,
            package,
            memory,
            assigned: Arc::default(),
            loading: Arc::default(),
            paces: Arc::default(),
        }
    }

    /// Loads what a leader asks for. Takes as long as building the graphs does; the network goes on meanwhile.
    ///
    /// Leaders that are not among the `alive` make room if there is not enough.
    pub(crate) fn load(&self, wish: &Assign, alive: &BTreeSet<NodeId>) -> Result<(), String> {
        if wish.model != self.package.identity() {
            return Err(format!(
                "this node has other weights than the leader: {} here, {} there",
                self.package.identity(),
                wish.model
            ));
        }
        let groups: usize = wish.groups.iter().map(Vec::len).sum();
        let heads = wish.heads.iter().flat_map(|h| &h.heads).map(Vec::len).sum();
        let groups = (groups as u64).saturating_mul(self.package.group_bytes());
        let bytes = groups.saturating_add(heads::bytes(&self.package, heads));
        let mut taken = self.taken_by_others(&wish.leader);
        if taken.saturating_add(bytes) > self.memory {
            self.retain(|leader| alive.contains(leader));
            taken = self.taken_by_others(&wish.leader);
        }
        if taken.saturating_add(bytes) > self.memory {
            return Err(format!(
                "{bytes} bytes of groups and heads do not fit: {taken} of {} are taken by other leaders",
                self.memory
            ));
        }
        for (layer, groups) in wish
            .standbys
            .iter()
            .enumerate()
            .take(self.package.shape().layers)
        {
            for &group in groups
                .iter()
                .filter(|g| (**g as usize) < self.package.groups())
            {
                self.package.group_region(layer, group as usize).prefetch();
            }
        }
        let before = self.tell(&wish.leader, groups, 0);
        let mut loaded = 0;
        let mut of_layer = |layer: usize| {
            loaded += wish.groups[layer].len() as u64 * self.package.group_bytes();
            self.tell(&wish.leader, groups, loaded);
        };
        let feed_forward =
            FeedForward::load_telling(&self.engine, &self.package, &wish.groups, &mut of_layer)
                .map_err(|error| {
                    let before = before.unwrap_or_default();
                    self.tell(&wish.leader, before.assigned, before.loaded);
                    error.to_string()
                })?;
        let attending = wish
            .heads
            .as_ref()
            .map(|heads| self.attending(&wish.leader, heads))
            .transpose()
            .map_err(|error| error.to_string())?;
        let assignment = Assignment {
            feed_forward,
            attending,
            activation: wish.activation,
            partial: wish.partial,
            counts: wish.groups.iter().map(Vec::len).collect(),
            bytes,
        };
        self.put(wish, assignment);
        memory::freed();
        Ok(())
    }

    /// Takes in a placement, and forgets those that the leader does not want any more.
    fn put(&self, wish: &Assign, assignment: Assignment) {
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        let epochs = assigned.entry(wish.leader.clone()).or_default();
        epochs.retain(|epoch, _| wish.keep.contains(epoch));
        epochs.insert(wish.epoch, Arc::new(Mutex::new(assignment)));
        while epochs.len() > EPOCHS {
            epochs.pop_first();
        }
    }

    /// A leader's heads here: those that it has already, if they are these.
    fn attending(
        &self,
        leader: &NodeId,
        wish: &Heads,
    ) -> Result<Arc<Mutex<Attending>>, EngineError> {
        let epochs = {
            let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
            assigned.get(leader).cloned().unwrap_or_default()
        };
        let known = epochs.values().find_map(|assignment| {
            let assignment = assignment.lock().unwrap_or_else(PoisonError::into_inner);
            let attending = assignment.attending.clone()?;
            let is = attending
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is(wish);
            is.then_some(attending)
        });
        match known {
            Some(attending) => Ok(attending),
            None => {
                let attending = Attending::load(&self.engine, &self.package, wish.clone())?;
                Ok(Arc::new(Mutex::new(attending)))
            }
        }
    }

    /// Notes how far a leader's groups are loaded, and gives how far they were.
    fn tell(&self, leader: &NodeId, assigned: u64, loaded: u64) -> Option<Loading> {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        loading.insert(leader.clone(), Loading { assigned, loaded })
    }

    /// How long it has taken to compute for each leader.
    pub(crate) fn paces(&self) -> &Paces {
        &self.paces
    }

    /// How far the groups of all leaders are loaded.
    pub(crate) fn loading(&self) -> Loading {
        let loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        loading
            .values()
            .fold(Loading::default(), |sum, of| Loading {
                assigned: sum.assigned.saturating_add(of.assigned),
                loaded: sum.loaded.saturating_add(of.loaded),
            })
    }

    /// Forgets other leaders than these. True if there were any.
    pub(crate) fn retain(&self, wanted: impl Fn(&NodeId) -> bool) -> bool {
        self.paces.retain(&wanted);
        self.loading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|leader, _| wanted(leader));
        let mut assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        let before = assigned.len();
        assigned.retain(|leader, _| wanted(leader));
        assigned.len() < before
    }

    pub(crate) fn get(&self, leader: &NodeId, epoch: u32) -> Option<Arc<Mutex<Assignment>>> {
        self.assigned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(leader)?
            .get(&epoch)
            .cloned()
    }

    /// Bytes held for other leaders. This leader's own older placement is about to be replaced and does not count.
    fn taken_by_others(&self, leader: &NodeId) -> u64 {
        let assigned = self.assigned.lock().unwrap_or_else(PoisonError::into_inner);
        let others = assigned
            .iter()
            .filter(|(l, _)| *l != leader)
            .flat_map(|(_, epochs)| epochs.values());
        others
            .map(|a| a.lock().unwrap_or_else(PoisonError::into_inner).bytes)
            .sum()
    }
}
