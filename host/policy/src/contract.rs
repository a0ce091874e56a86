//! The versions of the contract that this host speaks, side by side.
//!
//! A component was built for one version, and works for as long as the host speaks it. A record's fields are part of its type,
//! so whatever changes a record makes a new version: its WIT, a module like [`v0_1`], a line in [`VERSIONS`]. The rest of the
//! crate knows only its own types, and each version's module says what its components are told of them.

#[cfg(test)]
mod next;
mod v0_1;

use std::sync::Arc;

use wasmtime::{
    Store,
    component::{HasSelf, InstancePre, Linker},
};

use crate::{
    Device, Kind, Model, Placement, Round, Setting, Tensor, Verdict,
    bindings::scheduler::halo::policy::host, component::World, guest::Guest,
};

/// The versions of the WIT package `halo:policy` that this host speaks, the latest last.
pub(crate) const VERSIONS: &[&str] = &[
    "0.1.0",
    #[cfg(test)]
    "0.2.0",
];

/// What came of asking a policy for something that it may refuse in words of its own.
pub(crate) type Started<T> = wasmtime::Result<Result<T, String>>;

/// A component that schedules, before it is instantiated.
pub(crate) trait SchedulerWorld: Send + Sync {
    /// Instantiates and initialises.
    fn start(
        &self,
        store: &mut Store<Guest>,
        settings: &[Setting],
    ) -> Started<Box<dyn SchedulerCalls>>;
}

/// An instance that schedules.
pub(crate) trait SchedulerCalls: Send {
    fn place(
        &self,
        store: &mut Store<Guest>,
        model: &Model,
        devices: &[Device],
        current: Option<&Placement>,
    ) -> Started<Placement>;

    fn admit(&self, store: &mut Store<Guest>, round: &Round) -> wasmtime::Result<Verdict>;
}

/// A component that predicts, before it is instantiated.
pub(crate) trait PredictorWorld: Send + Sync {
    /// Instantiates and initialises.
    fn start(
        &self,
        store: &mut Store<Guest>,
        model: &Model,
        parameters: &[Tensor],
        settings: &[Setting],
    ) -> Started<Box<dyn PredictorCalls>>;
}

/// An instance that predicts.
pub(crate) trait PredictorCalls: Send {
    fn score(
        &self,
        store: &mut Store<Guest>,
        layer: u32,
        hidden: &[f32],
    ) -> wasmtime::Result<Vec<f32>>;
}

/// Gives policies what all versions offer them.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    // Both worlds import the same interface, so this serves both.
    host::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    #[cfg(test)]
    next::add_to_linker(linker)?;
    Ok(())
}

/// The world of a component that claims to be of this kind and version.
///
/// # Errors
///
/// Its functions or types are not those of the world.
pub(crate) fn world(kind: Kind, version: &str, pre: InstancePre<Guest>) -> wasmtime::Result<World> {
    Ok(match (kind, version) {
        #[cfg(test)]
        (Kind::Scheduler, "0.2.0") => World::Scheduler(Arc::new(next::scheduler(pre)?)),
        (Kind::Scheduler, _) => World::Scheduler(Arc::new(v0_1::scheduler(pre)?)),
        (Kind::Predictor, _) => World::Predictor(Arc::new(v0_1::predictor(pre)?)),
    })
}
