//! What can go wrong, and what to do about it.

use std::time::Duration;

use crate::{InvalidName, NodeId};

/// A session that cannot be opened, or an operation on it that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// A name in the configuration is not allowed.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),

    /// An endpoint is neither `HOST:PORT` nor a zenoh endpoint.
    #[error(
        "`{endpoint}` is not an endpoint: {reason}; write HOST:PORT (such as 192.168.1.7:7447 or [fe80::1]:7447), \
         or a zenoh endpoint (such as tcp/pi-4:7447)"
    )]
    BadEndpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A fault model in the configuration is not possible.
    #[error(
        "the loss to inject has `{field}` {value}: {expected}; see [testing] in the configuration"
    )]
    BadFaults {
        /// Which value.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it has to be.
        expected: &'static str,
    },

    /// Another program listens where we should.
    #[error(
        "cannot listen on {endpoint}: the address is in use; stop the program that uses it (`ss -lntup` shows which), \
         or listen on another port"
    )]
    PortInUse {
        /// The zenoh endpoint.
        endpoint: String,
    },

    /// An endpoint to listen on belongs to no interface of this machine.
    #[error(
        "cannot listen on {endpoint}: this machine has no such address; `ip address` lists those it has"
    )]
    NoSuchAddress {
        /// The zenoh endpoint.
        endpoint: String,
    },

    /// A live node of the cluster has our name.
    #[error(
        "the cluster `{cluster}` already has a live node named `{node}`; give this one another name, or stop the other"
    )]
    NameTaken {
        /// The cluster.
        cluster: String,
        /// The name both have.
        node: NodeId,
    },

    /// A client could not reach its router.
    #[error(
        "cannot connect to {}: {reason}; is a zenoh router running there, and may its port be reached over TCP and UDP?",
        .endpoints.join(" or ")
    )]
    CannotConnect {
        /// The endpoints tried, as they were given.
        endpoints: Vec<String>,
        /// What zenoh says.
        reason: String,
    },

    /// A client was given nothing to connect to and may not look for it either.
    #[error(
        "a client needs a router to connect to: give its address with --connect, or allow scouting"
    )]
    NowhereToConnect,

    /// zenoh refused something that the checks above do not foresee.
    #[error("zenoh failed to {action}: {reason}")]
    Zenoh {
        /// What was to be done.
        action: String,
        /// What zenoh says.
        reason: String,
    },
}

impl FabricError {
    /// Wraps what zenoh said about `action`.
    pub(crate) fn zenoh(action: impl Into<String>, reason: &zenoh::Error) -> Self {
        Self::Zenoh {
            action: action.into(),
            reason: words(reason),
        }
    }
}

/// What zenoh says, without the places in its sources that it names.
pub(crate) fn words(reason: &zenoh::Error) -> String {
    let reason = reason.to_string();
    let mut said = String::new();
    for (i, part) in reason.split(" at ").enumerate() {
        let place = part.split_once(".rs:");
        match place.filter(|(file, _)| i > 0 && !file.contains(' ')) {
            Some((_, rest)) => said += rest.trim_start_matches(|c: char| c.is_ascii_digit()),
            None if i > 0 => said += &format!(" at {part}"),
            None => said += part,
        }
    }
    said.trim_end_matches('.').to_owned()
}

/// A request on the control plane that brought no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nothing came back in time.
    #[error(
        "node `{node}` did not answer `{operation}` within {timeout:?}; is it running and connected to the cluster?"
    )]
    NoAnswer {
        /// The node asked.
        node: NodeId,
        /// What was asked.
        operation: String,
        /// How long we waited.
        timeout: Duration,
    },

    /// What would have answered, or the connection to it, went before it did.
    #[error("node `{node}` went away, or stopped its service, before it answered `{operation}`")]
    Gone {
        /// The node asked.
        node: NodeId,
        /// What was asked.
        operation: String,
    },

    /// No packet comes from the node, though it is there.
    #[error(
        "nothing comes from node `{node}` over UDP, though it is there; let UDP pass on the port that it listens on, and on this node's"
    )]
    Unheard {
        /// The node.
        node: NodeId,
    },

    /// The node answered that it will not or cannot.
    #[error("node `{node}` refused `{operation}`: {message}")]
    Refused {
        /// The node asked.
        node: NodeId,
        /// What was asked.
        operation: String,
        /// The node's reason.
        message: String,
    },

    /// The request cannot be written, or the answer cannot be read.
    #[error("node `{node}`, `{operation}`: {reason}; do both nodes run the same version?")]
    Malformed {
        /// The node asked.
        node: NodeId,
        /// What was asked.
        operation: String,
        /// What is wrong.
        reason: String,
    },

    /// A request or an answer above the limit.
    #[error(
        "node `{node}`, `{operation}`: a message of {bytes} bytes is above the limit of {limit}; send it in pieces"
    )]
    TooLarge {
        /// The node asked.
        node: NodeId,
        /// What was asked.
        operation: String,
        /// The message's size.
        bytes: usize,
        /// The largest there may be.
        limit: usize,
    },

    /// The session is closed, or zenoh refused.
    #[error("zenoh failed to ask node `{node}` for `{operation}`: {reason}")]
    Zenoh {
        /// The node asked.
        node: NodeId,
        /// What was asked.
        operation: String,
        /// What zenoh says.
        reason: String,
    },
}

/// A tensor shape that cannot travel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// No rows, or too many.
    #[error("a tensor of {0} rows cannot travel: 1 to {max} can", max = crate::TensorShape::MAX_ROWS)]
    Rows(usize),
    /// No values in a row, or too many.
    #[error("a tensor of {0} values a row cannot travel: 1 to {max} can", max = crate::TensorShape::MAX_WIDTH)]
    Width(usize),
    /// More chunks than a packet can number.
    #[error("a tensor of {0} chunks cannot travel: up to {max} can; send fewer rows at a time", max = crate::TensorShape::MAX_CHUNKS)]
    Chunks(usize),
}

/// Bytes that are not a packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Shorter than a header, or longer than a datagram.
    #[error("a packet of {0} bytes")]
    Length(usize),
    /// Something else than one of our packets.
    #[error("the first two bytes are not those of a packet")]
    Magic,
    /// Another version of the format.
    #[error("version {0} of the packet format; this node speaks version {ours}", ours = crate::wire::VERSION)]
    Version(u8),
    /// An unknown kind of packet.
    #[error("packet kind {0}")]
    Kind(u8),
    /// An unknown encoding.
    #[error("encoding {0}")]
    Encoding(u8),
    /// A field that has to be zero in this kind of packet.
    #[error("a field is set that this kind of packet does not have")]
    Field,
    /// An impossible shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A chunk that the shape does not have, or another number of chunks than the shape has.
    #[error("chunk {chunk} of {chunks}, for a shape of {expected} chunks")]
    Chunk {
        /// The chunk's number.
        chunk: u16,
        /// How many there are, by the packet.
        chunks: u16,
        /// How many there are, by the shape.
        expected: u16,
    },
    /// A body of the wrong size for its kind, encoding and chunk.
    #[error("a body of {actual} bytes")]
    Body {
        /// Its size.
        actual: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_zenohs_sources_are_left_out() {
        let error = zenoh::Error::from(
            "Timeout! at /a/b-1.10/src/c.rs:388. - Caused by no route at all at /d.rs:7.",
        );
        assert_eq!(words(&error), "Timeout!. - Caused by no route at all");
    }
}
