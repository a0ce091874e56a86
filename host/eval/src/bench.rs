//! How fast a package runs on this machine, and in how much memory; and how fast on a cluster.
//!
//! A forward pass is the one of a generation, from token to token; beside it run the model's matrix products alone, in the
//! same rounds, so that whatever else the machine does disturbs both alike.

mod cluster;
mod machine;
mod measure;
mod memory;
mod policies;
mod prompt;
mod report;
mod timing;

pub use cluster::{Cluster, Part, Step, Traffic};
pub use machine::Machine;
pub use measure::{Options, bench};
pub use memory::{Memory, Resident};
pub use policies::PolicyTimings;
pub use prompt::prompt;
pub use report::{Model, ProductTimings, Report, Run};
pub use timing::Timing;
