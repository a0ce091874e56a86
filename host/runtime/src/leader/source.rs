use std::time::Instant;

use halo_engine::{AttentionStep, FeedForwardSource, FeedForwardStep, KvCache};
use halo_models::Shape;

use super::Leader;
use super::work::{Task, Work, places};
use crate::error::GenerationError;
use crate::generation::Source;
use crate::telemetry::Counts;

impl FeedForwardSource for Leader {
    type Error = GenerationError;

    fn ends(&mut self, rows: &[usize]) {
        self.ends = rows.to_vec();
    }

    fn begin(&mut self, embedded: &[f32]) -> Result<(), GenerationError> {
        self.step = self.step.wrapping_add(1);
        let rows = embedded.len() / self.shape.width;
        let passes = &self.slot.passes;
        passes.begin(self.plan.epoch, rows, Instant::now());
        self.concealed.fill(0.0);
        self.predict(0, embedded);
        Ok(())
    }

    fn attend(&mut self, step: AttentionStep<'_, '_>) -> Result<bool, GenerationError> {
        let Some(heads) = &self.heads else {
            return Ok(false);
        };
        let layer = step.layer;
        heads.norm(layer, step.hidden, step.normed);
        let mut sum = vec![0f32; step.hidden.len()];
        let places = places(step.parts);
        self.round(Work {
            layer,
            task: Task::Attention {
                parts: step.parts,
                places,
            },
            normed: step.normed,
            sum: &mut sum,
        })?;
        if let Some(heads) = &self.heads {
            heads.finish(layer, &sum, step.hidden, step.normed);
        }
        Ok(true)
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), GenerationError> {
        std::mem::swap(&mut self.scores, &mut self.next_scores);
        self.round(Work {
            layer: step.layer,
            task: Task::FeedForward {
                hidden: step.hidden,
            },
            normed: step.normed,
            sum: step.sum,
        })
    }
}

impl Source for Leader {
    fn cache(&self, shape: &Shape, capacity: usize) -> KvCache {
        match &self.heads {
            Some(heads) => {
                let counts: Vec<usize> = heads.heads().iter().map(Vec::len).collect();
                KvCache::of_heads(shape, &counts, capacity)
            }
            None => KvCache::new(shape, capacity),
        }
    }

    fn shares_attention(&self) -> bool {
        self.heads.is_some()
    }

    fn has_moved(&mut self) -> Result<bool, GenerationError> {
        if let Some(prepared) = self.slot.take() {
            self.adopt(prepared)?;
        }
        Ok(std::mem::take(&mut self.moved))
    }

    fn concealed(&self) -> &[f32] {
        &self.concealed
    }

    fn counts(&self) -> Counts {
        self.exchange.counts()
    }
}
