//! What can be made worse about a host.

use anyhow::Result;

use super::host::Host;

/// Something about a host that can be made worse, and better again.
pub(super) trait Condition {
    /// Puts it in force, in place of what was in force before.
    fn set(&self, host: &Host) -> Result<()>;
}
