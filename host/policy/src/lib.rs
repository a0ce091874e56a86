//! Schedulers and predictors as WebAssembly components.
//!
//! A *policy* decides who computes what and whom to wait for (a scheduler), or how much each neuron group will matter (a
//! predictor). Policies are components of the worlds in `wit/policy.wit`; [`Sandbox`] compiles and runs them under a
//! deadline and a memory limit, with no access to anything but a line in the log.
//!
//! The rest of HALO talks to a [`SchedulerSlot`] and a [`PredictorSlot`]. Their questions always get a usable answer: every
//! result is checked, and whatever goes wrong inside a policy, a built-in rule ([`builtin`]) answers instead and the
//! [`Fault`] is reported beside the answer. A slot's policy can be exchanged at any time between two calls; one that fails
//! several times in a row is replaced by the policy that was in force before it.
//!
//! ```
//! use halo_policy::{Device, Limits, Model, PolicyStore, Sandbox, SchedulerSlot};
//!
//! let sandbox = Sandbox::new(Limits::default())?;
//! let slot = SchedulerSlot::new(&sandbox);
//! let bytes = PolicyStore::builtin().get("scheduler-even")?.bytes;
//! slot.activate(&sandbox.compile("scheduler-even", &bytes)?, &[])?;
//!
//! let model = Model { layers: 2, width: 64, groups: 4, group_bytes: 1 << 20, ..Model::default() };
//! let device = |name: &str, leader| Device { name: name.into(), leader, speed: 1e4, memory: 1 << 30, ..Device::default() };
//! let answer = slot.place(&model, &[device("one", true), device("two", false)], None);
//! assert_eq!(answer.value.owners.len(), 8);
//! assert!(answer.fault.is_none());
//! # Ok::<(), halo_policy::PolicyError>(())
//! ```

#![deny(unsafe_code)]

mod bindings;
pub mod builtin;
mod check;
mod component;
mod conformance;
mod contract;
mod digest;
mod error;
mod fault;
mod guest;
mod history;
mod inspection;
mod instance;
mod limits;
mod model;
mod policy_slot;
mod precompiled;
mod predictor;
mod recording;
mod replay;
mod sandbox;
mod schedule;
mod scheduler;
mod slot;
mod store;
mod wasi;

pub use component::{Component, Kind};
pub use conformance::{Case, conformance};
pub use digest::{Digest, ParseDigestError};
pub use error::PolicyError;
pub use fault::{Answer, Fault, FaultReason, Operation};
pub use history::{Cause, Change, before};
pub use inspection::Inspection;
pub use limits::Limits;
pub use model::{Model, Setting, Tensor};
pub use policy_slot::PolicySlot;
pub use predictor::PredictorSlot;
pub use recording::{Placing, Recording, State};
pub use replay::{Replayed, replay};
pub use sandbox::Sandbox;
pub use schedule::{Debtor, Device, Order, Placement, Round, Standby, Verdict};
pub use scheduler::SchedulerSlot;
pub use slot::Active;
pub use store::{Entry, Origin, PolicyStore, Stored};
