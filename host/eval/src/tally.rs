use serde::Serialize;

/// What has happened in rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Tally {
    /// One for each layer and row.
    pub rounds: u64,
    /// One for each round and worker.
    pub partials: u64,
    /// Those that were not waited for until they were whole.
    pub concealed_partials: u64,
    /// Times that a worker was asked again.
    pub asked_again: u64,
    /// Share of predicted contribution concealed, averaged over the rounds.
    pub concealed: f64,
}
