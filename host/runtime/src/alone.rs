use halo_engine::{
    Engine, FeedForward, FeedForwardSource, FeedForwardStep, LoadOrder, StreamPlan,
    packed_backbone_bytes, packed_groups_bytes,
};
use halo_models::Package;

use crate::error::{GenerationError, NodeError};
use crate::generation::Source;
use crate::memory;
use crate::policies::importance;
use crate::telemetry::Counts;

/// Rows of a pass on a machine by itself. More were no faster.
pub const ALONE_ROWS: usize = 64;

/// How a machine by itself holds a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AloneOptions {
    /// Bytes of memory for feed-forward groups; by default what is available beside the rest of the model. What does not fit is
    /// read from the disk for every pass.
    pub memory: Option<u64>,
    /// Begin when so much of every layer's importance is in memory, 0 to 1, and load the rest beside the generation. Less than
    /// 1 conceals the rest until it is there.
    pub start: f64,
}

impl Default for AloneOptions {
    fn default() -> Self {
        Self {
            memory: None,
            start: 1.0,
        }
    }
}

impl AloneOptions {
    /// The bytes of memory that the model's weights take at least: without the groups that can be read for every pass instead.
    #[must_use]
    pub fn weights(&self, package: &Package) -> u64 {
        let groups = packed_groups_bytes(package);
        let least = StreamPlan::least(package).min(groups);
        packed_backbone_bytes(package) + self.memory.map_or(least, |memory| memory.min(groups))
    }

    /// Whether the groups do not fit the memory for them, so that some are read for every pass.
    #[must_use]
    pub fn streams(&self, package: &Package) -> bool {
        packed_groups_bytes(package) > self.room(package)
    }

    /// Memory for the groups. Where the user says nothing, a quarter of what is left is for the KV cache.
    fn room(&self, package: &Package) -> u64 {
        let available =
            || Some(memory::available()?.saturating_sub(packed_backbone_bytes(package)) / 4 * 3);
        self.memory.or_else(available).unwrap_or(u64::MAX)
    }
}

/// All groups on this machine: no rounds, nothing lost.
pub(crate) struct Alone {
    feed_forward: FeedForward,
    /// What the pass under way goes without, by layer.
    concealed: Vec<f32>,
}

impl Alone {
    pub(crate) fn load(
        engine: &Engine,
        package: &Package,
        options: AloneOptions,
    ) -> Result<Self, NodeError> {
        let calibration = package.calibration()?;
        let importance = importance(package, calibration.as_ref());
        let feed_forward = if options.start < 1.0 && !options.streams(package) {
            let order = LoadOrder::new(package, importance, options.start as f32);
            FeedForward::load_beside(engine, package, order)?
        } else {
            FeedForward::load_within(engine, package, importance, options.room(package))?
        };
        Ok(Self {
            feed_forward,
            concealed: vec![0.0; package.shape().layers],
        })
    }
}

impl FeedForwardSource for Alone {
    type Error = GenerationError;

    fn begin(&mut self, embedded: &[f32]) -> Result<(), GenerationError> {
        self.feed_forward.begin(embedded)?;
        self.concealed
            .fill(1.0 - self.feed_forward.loaded().importance);
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), GenerationError> {
        Ok(self.feed_forward.step(step)?)
    }
}

impl Source for Alone {
    fn rows(&self) -> usize {
        ALONE_ROWS
    }

    fn concealed(&self) -> &[f32] {
        &self.concealed
    }

    fn counts(&self) -> Counts {
        let streamed = self.feed_forward.streamed().unwrap_or_default();
        Counts {
            weights_read: streamed.bytes,
            disk_wait_ms: streamed.waiting.as_millis() as u64,
            ..Counts::default()
        }
    }
}
