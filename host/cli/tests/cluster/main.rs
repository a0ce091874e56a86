//! Whole clusters: a leader and its workers as processes of the real program, joined by zenoh over the loopback interface.
//!
//! What a test does in the middle of a generation happens there whatever the machine's speed: a leader writes its tokens into
//! a pipe that holds only a few, so it is never far ahead of its test.

#![forbid(unsafe_code)]

mod attention;
mod bench;
mod churn;
mod cluster;
mod faulty;
mod flood;
mod leader;
mod leaders;
mod lossy_link;
mod mixed;
mod model;
mod packages;
mod partition;
mod ping;
mod policies;
mod ports;
mod process;
mod relaxed;
mod relay;
mod slow;
mod status;
mod strict;
mod swaps;
mod topology;
mod trace;
mod unwise;
