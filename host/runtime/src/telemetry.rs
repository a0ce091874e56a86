use serde::{Deserialize, Serialize};

/// What happened on the network, and on the disk, during a generation, from the leader's side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rounds: one fan-out and fan-in for one layer of one forward pass.
    pub rounds: u64,
    /// Rounds that had to be done again on a new placement.
    pub repeated_rounds: u64,
    /// Partials that were owed by workers.
    pub partials: u64,
    /// Partials of which something was concealed.
    pub concealed_partials: u64,
    /// Times that a worker may have missed a token's attention in a layer, which it leaves out until it has had it.
    pub holes: u64,
    /// Those of them that it has had since.
    pub holes_filled: u64,
    /// Times that something lost was asked for again, there or here.
    pub asked_again: u64,
    /// Lost packets of partials that their parity made up for.
    pub made_up: u64,
    /// Tensor packets sent.
    pub packets_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Tensor packets received.
    pub packets_received: u64,
    /// Packets that came for a round that was over, or twice, or did not fit.
    pub packets_useless: u64,
    /// Packets that arrived here and were lost on purpose; see `[testing]`.
    pub packets_lost: u64,
    /// Placements that came into force, without the first.
    pub new_placements: u64,
    /// Times a policy failed and the built-in rule answered.
    pub policy_faults: u64,
    /// Bytes of weights read from the disk, of a model that does not fit the memory.
    pub weights_read: u64,
    /// Milliseconds for which passes waited for them.
    pub disk_wait_ms: u64,
}

impl Counts {
    /// What has happened since the counts were `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            rounds: self.rounds - before.rounds,
            repeated_rounds: self.repeated_rounds - before.repeated_rounds,
            partials: self.partials - before.partials,
            concealed_partials: self.concealed_partials - before.concealed_partials,
            holes: self.holes - before.holes,
            holes_filled: self.holes_filled - before.holes_filled,
            asked_again: self.asked_again - before.asked_again,
            made_up: self.made_up - before.made_up,
            packets_sent: self.packets_sent - before.packets_sent,
            bytes_sent: self.bytes_sent - before.bytes_sent,
            packets_received: self.packets_received - before.packets_received,
            packets_useless: self.packets_useless - before.packets_useless,
            packets_lost: self.packets_lost - before.packets_lost,
            new_placements: self.new_placements - before.new_placements,
            policy_faults: self.policy_faults - before.policy_faults,
            weights_read: self.weights_read - before.weights_read,
            disk_wait_ms: self.disk_wait_ms - before.disk_wait_ms,
        }
    }
}
