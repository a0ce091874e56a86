//! What a policy did wrong, in words.

use std::{fmt, time::Duration};

use serde::Serialize;

/// The answer to a question put to a policy: always a usable one.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The policy's answer or, if there is a fault, the built-in rule's.
    pub value: T,
    /// Why the policy's own answer was not used. `None` if it was, or if the built-in rule is in force.
    pub fault: Option<Fault>,
}

/// One call of a policy that gave no usable result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("policy {policy:?}: {operation} {reason}")]
pub struct Fault {
    /// The policy's name.
    pub policy: String,
    /// What it was asked to do.
    pub operation: Operation,
    /// What it did instead.
    pub reason: FaultReason,
}

/// A function of the policy worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Instantiation and `init`.
    Init,
    /// `scheduler.place`.
    Place,
    /// `scheduler.admit`.
    Admit,
    /// `predictor.score`.
    Score,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Init => "init",
            Self::Place => "place",
            Self::Admit => "admit",
            Self::Score => "score",
        })
    }
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultReason {
    /// It trapped: a panic in the policy, an access out of bounds, more data handed back than
    /// [`Limits::message`](crate::Limits::message).
    #[error("trapped: {0}")]
    Trap(String),
    /// It was stopped at its deadline.
    #[error("did not finish within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// It failed after it was refused more memory.
    #[error("needed more than its {} MiB of memory", .0 >> 20)]
    Memory(usize),
    /// A list had the wrong length.
    #[error("gave {found} {what} where there must be {expected}")]
    Shape {
        /// What the list holds, such as `owners`.
        what: &'static str,
        /// The length that it must have.
        expected: usize,
        /// The length that it had.
        found: usize,
    },
    /// A number was infinite or not a number.
    #[error("gave {value} as {what} number {index}")]
    NotFinite {
        /// What the number is, such as `score`.
        what: &'static str,
        /// Where it is in its list.
        index: usize,
        /// The number itself.
        value: f32,
    },
    /// A value was outside its range, or devices were given more than fits their memory.
    #[error("gave a result out of range: {0}")]
    OutOfRange(String),
    /// The policy itself said that it cannot do what was asked.
    #[error("was refused by the policy: {0}")]
    Refused(String),
    /// The question itself was malformed, so the policy was not asked.
    #[error("was not asked: {0}")]
    Question(String),
}

impl FaultReason {
    /// Whether it counts towards a rollback. Saying no is a policy's right, and a malformed question is not its doing.
    pub fn is_misbehaviour(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Question(_))
    }
}
