//! Names of nodes and clusters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: that of a DNS label.
const MAX_NAME_BYTES: usize = 63;

/// A node's name, unique within its cluster: 1 to 63 of `a-z`, `0-9` and `-`.
///
/// Names are parts of zenoh keys, so they hold no character that means something there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name of a node or cluster that is not 1 to 63 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{name}` cannot name a node or a cluster: use 1 to {MAX_NAME_BYTES} of the characters a-z, 0-9 and -"
)]
pub struct InvalidName {
    name: String,
}

/// Checks a name of a node or cluster.
pub(crate) fn check_name(name: &str) -> Result<(), InvalidName> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(InvalidName {
            name: name.chars().take(2 * MAX_NAME_BYTES).collect(),
        })
    }
}

impl FromStr for NodeId {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        check_name(name)?;
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        check_name(&name)?;
        Ok(Self(name))
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl AsRef<str> for NodeId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "pi-4", "0", "-", &"x".repeat(63)] {
            assert_eq!(good.parse::<NodeId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "Pi",
            "a/b",
            "a*",
            "a.b",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn serde_checks_too() {
        let id: NodeId = serde_json::from_str("\"pi-4\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"pi-4\"");
        assert!(serde_json::from_str::<NodeId>("\"a/*\"").is_err());
    }
}
