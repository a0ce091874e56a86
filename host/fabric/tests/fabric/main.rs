//! Nodes with real zenoh sessions on this machine.

mod control;
mod data;
mod membership;
mod nodes;
mod transport;
