//! What has been in force, and why it changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, Setting};

/// One change of what is in force in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What came into force: a policy's name, or [`builtin::NAME`](crate::builtin::NAME).
    pub name: String,
    /// The digest of its bytes; `None` for the built-in rule.
    pub digest: Option<Digest>,
    /// What it was told.
    pub settings: Vec<Setting>,
    /// Why.
    pub cause: Cause,
    /// The faults for which the policy before it went, if they are the cause: the last one, in words.
    pub fault: Option<String>,
    /// Calls without a usable result while it was in force.
    pub faults: u64,
    /// How long ago that was, in seconds. Clocks of small machines disagree; ages do not.
    pub seconds_ago: u64,
}

/// Why a policy came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The node began with it.
    Started,
    /// Somebody put it in force.
    Activated,
    /// Somebody went back to it.
    RolledBack,
    /// The policy after it failed too often.
    Faults,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Started => "started",
            Self::Activated => "activated",
            Self::RolledBack => "rolled back",
            Self::Faults => "rolled back because of faults",
        })
    }
}

impl Change {
    /// Whether both put the same policy in force with the same settings.
    fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.settings == other.settings
    }
}

/// What was in force before the policy that is now, of a slot's history, oldest first: what going back leads to. Whoever goes
/// back twice comes to the policy before that, rather than to where he was.
pub fn before(history: &[Change]) -> Option<&Change> {
    let mut stack: Vec<&Change> = Vec::new();
    for change in history {
        match change.cause {
            Cause::Started => stack.clear(),
            Cause::Activated => _ = stack.pop_if(|top| top.is_same(change)),
            Cause::RolledBack | Cause::Faults => {
                while stack.pop().is_some_and(|top| !top.is_same(change)) {}
            }
        }
        stack.push(change);
    }
    stack.pop();
    stack.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(changes: &[(&str, Cause)]) -> Vec<Change> {
        let change = |&(name, cause): &(&str, Cause)| Change {
            name: name.into(),
            digest: Some(Digest::of(name.as_bytes())),
            settings: Vec::new(),
            cause,
            fault: None,
            faults: 0,
            seconds_ago: 0,
        };
        changes.iter().map(change).collect()
    }

    fn back_from(changes: &[(&str, Cause)]) -> Option<String> {
        before(&history(changes)).map(|change| change.name.clone())
    }

    #[test]
    fn going_back_twice_goes_back_two() {
        use Cause::{Activated, Faults, RolledBack, Started};
        let mut changes = vec![
            ("rule", Started),
            ("first", Started),
            ("second", Activated),
            ("third", Activated),
        ];
        assert_eq!(back_from(&changes).as_deref(), Some("second"));
        changes.push(("second", RolledBack));
        assert_eq!(back_from(&changes).as_deref(), Some("first"));
        changes.push(("first", RolledBack));
        assert_eq!(
            back_from(&changes),
            None,
            "the node began with the first of them"
        );
        changes.extend([("second", Activated), ("second", Activated)]);
        assert_eq!(back_from(&changes).as_deref(), Some("first"));
        changes.push(("first", Faults));
        assert_eq!(back_from(&changes), None);
        assert_eq!(back_from(&[]), None);
    }

    #[test]
    fn other_settings_are_another_policy() {
        use Cause::{Activated, Started};
        let mut changes = history(&[("rule", Started), ("mine", Activated), ("mine", Activated)]);
        changes[2].settings = vec![Setting::new("budget", "0.1")];
        let back = before(&changes).unwrap();
        assert_eq!((back.name.as_str(), back.settings.len()), ("mine", 0));
    }
}
