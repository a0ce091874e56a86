use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use halo_models::Package;
use tracing::trace_span;

use super::block::Block;
use crate::loading::Batch;
use crate::{Engine, EngineError, TIMELINE};

/// How far loading beside the computation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loaded {
    /// Batches still to come.
    pub batches: usize,
    /// The share of importance whose groups are there, averaged over layers: 1 when nothing is missing.
    pub importance: f32,
}

impl Default for Loaded {
    fn default() -> Self {
        Self {
            batches: 0,
            importance: 1.0,
        }
    }
}

/// Loads batches on a thread of its own, which ends with the last of them, or when nobody waits for them any more.
#[derive(Debug)]
pub(super) struct Loader {
    layers: usize,
    /// The importance of each batch still to come, in the order in which they come.
    coming: std::collections::VecDeque<f32>,
    blocks: Receiver<Result<Block, EngineError>>,
}

impl Loader {
    pub(super) fn start(
        engine: &Engine,
        package: &Package,
        batches: Vec<Batch>,
    ) -> Result<Self, EngineError> {
        let coming = batches.iter().map(|batch| batch.importance).collect();
        let (sender, blocks) = channel();
        let (engine, shared) = (engine.clone(), package.clone());
        let load = move || {
            for Batch { layer, groups, .. } in batches {
                let block = trace_span!(target: TIMELINE, "load", layer)
                    .in_scope(|| Block::load(&engine, &shared, layer, &groups));
                let failed = block.is_err();
                if sender.send(block).is_err() || failed {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("halo-loader".into())
            .spawn(load)
            .map_err(EngineError::Thread)?;
        Ok(Self {
            layers: package.shape().layers,
            coming,
            blocks,
        })
    }

    /// A batch that has been loaded, if there is one.
    pub(super) fn arrived(&mut self) -> Result<Option<Block>, EngineError> {
        if self.coming.is_empty() {
            return Ok(None);
        }
        match self.blocks.try_recv() {
            Ok(block) => {
                let block = block?;
                self.coming.pop_front();
                Ok(Some(block))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(EngineError::LoadingEnded),
        }
    }

    pub(super) fn loaded(&self) -> Loaded {
        Loaded {
            batches: self.coming.len(),
            importance: 1.0 - self.coming.iter().sum::<f32>() / self.layers as f32,
        }
    }
}
