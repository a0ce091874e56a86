use halo_engine::{FeedForwardSource, FeedForwardStep};
use halo_runtime::{Counts, Source};

use crate::{EvalError, Tally};

/// The feed-forward of a real cluster that this node leads, and the account of what it did.
pub struct Clustered<'a> {
    source: &'a mut (dyn Source + Send),
    before: Counts,
    passes: u64,
    /// Sum over passes of what each went without.
    concealed: f64,
}

impl<'a> Clustered<'a> {
    /// Begins to count.
    pub fn new(source: &'a mut (dyn Source + Send)) -> Self {
        Self {
            before: source.counts(),
            source,
            passes: 0,
            concealed: 0.0,
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let (now, before) = (self.source.counts(), &self.before);
        Tally {
            rounds: now.rounds - before.rounds,
            partials: now.partials - before.partials,
            concealed_partials: now.concealed_partials - before.concealed_partials,
            asked_again: now.asked_again - before.asked_again,
            concealed: self.concealed / self.passes.max(1) as f64,
        }
    }
}

impl std::fmt::Debug for Clustered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clustered").finish_non_exhaustive()
    }
}

impl FeedForwardSource for Clustered<'_> {
    type Error = EvalError;

    fn ends(&mut self, rows: &[usize]) {
        self.source.ends(rows);
    }

    fn begin(&mut self, embedded: &[f32]) -> Result<(), EvalError> {
        Ok(self.source.begin(embedded)?)
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EvalError> {
        let layer = step.layer;
        self.source.step(step)?;
        let layers = self.source.concealed();
        if layer + 1 == layers.len() {
            self.passes += 1;
            self.concealed += f64::from(layers.iter().sum::<f32>()) / layers.len() as f64;
        }
        Ok(())
    }
}
