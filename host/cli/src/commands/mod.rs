//! One file per subcommand.

pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod run;
pub(crate) mod status;
