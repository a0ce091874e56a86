//! What nodes can do, in rows of a table.

use halo_runtime::{Loading, Profile};

use crate::output;

/// What the columns are.
pub(crate) const HEAD: [&str; 9] = [
    "node", "role", "arch", "threads", "groups/s", "memory", "loaded", "model", "°C",
];

/// A node's row.
pub(crate) fn row(profile: &Profile, role: &str, loading: Option<Loading>) -> Vec<String> {
    vec![
        profile.node.to_string(),
        role.into(),
        profile.architecture.clone(),
        profile.threads.to_string(),
        format!("{:.0}", profile.speed),
        output::bytes(profile.memory),
        loaded(loading),
        profile.model.chars().take(8).collect(),
        profile
            .temperature
            .map_or("-".into(), |t| format!("{t:.0}")),
    ]
}

/// `120.3 MB of 410.4 MB`, or that there is nothing to load.
fn loaded(loading: Option<Loading>) -> String {
    match loading {
        Some(Loading { assigned, loaded }) if assigned > 0 => {
            format!("{} of {}", output::bytes(loaded), output::bytes(assigned))
        }
        _ => "-".into(),
    }
}
