//! One file per subcommand.

pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod chat;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod model;
pub(crate) mod node;
pub(crate) mod ping;
pub(crate) mod policy;
pub(crate) mod push;
pub(crate) mod random;
pub(crate) mod router;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod top;
