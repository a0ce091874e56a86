mod block;
mod gate;
mod loader;
mod stream;
mod unpacked;

use halo_models::Package;
use tracing::trace_span;

use crate::slowdown::Slowdown;
use crate::{
    Engine, EngineError, FeedForwardSource, FeedForwardStep, LoadOrder, StreamPlan, TIMELINE,
};

use block::Block;
pub use loader::Loaded;
use loader::Loader;
use stream::Stream;
pub use stream::Streamed;

/// The feed-forward neuron groups that this node computes: some groups of each layer, maybe all, maybe none.
///
/// The result of a layer is their *partial*: the sum of their contributions to the residual stream. Groups are in memory from
/// the start ([`load`](Self::load)), or come while the others compute already ([`load_beside`](Self::load_beside)), or are read
/// anew for every pass, ahead of their use ([`stream`](Self::stream)).
#[derive(Debug)]
pub struct FeedForward {
    width: usize,
    /// What is in memory of each layer.
    layers: Vec<Vec<Block>>,
    loader: Option<Loader>,
    stream: Option<Stream>,
    slowdown: Slowdown,
}

impl FeedForward {
    /// Loads `groups`: one list of group indices per layer.
    ///
    /// # Errors
    ///
    /// An index or the number of lists does not fit the package, the disk does not give the weights, or ONNX Runtime refuses a
    /// graph.
    pub fn load(
        engine: &Engine,
        package: &Package,
        groups: &[Vec<u32>],
    ) -> Result<Self, EngineError> {
        Self::load_telling(engine, package, groups, &mut |_| ())
    }

    /// As [`load`](Self::load), and tells of every layer when its groups are in memory.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load).
    pub fn load_telling(
        engine: &Engine,
        package: &Package,
        groups: &[Vec<u32>],
        loaded: &mut dyn FnMut(usize),
    ) -> Result<Self, EngineError> {
        let shape = package.shape();
        if groups.len() != shape.layers {
            return Err(EngineError::Mismatch {
                what: "layers of a placement",
                expected: shape.layers,
                got: groups.len(),
            });
        }
        let layers = groups
            .iter()
            .enumerate()
            .map(|(layer, groups)| {
                if groups.is_empty() {
                    return Ok(Vec::new());
                }
                let block = Block::load(engine, package, layer, groups)?;
                loaded(layer);
                Ok(vec![block])
            })
            .collect::<Result<_, EngineError>>()?;
        Ok(Self {
            width: shape.width,
            layers,
            loader: None,
            stream: None,
            slowdown: engine.slowdown(),
        })
    }

    /// All groups of all layers.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load).
    pub fn load_all(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        Self::load(engine, package, &crate::loading::all_groups(package))
    }

    /// All groups of all layers, within `memory` bytes: if they do not fit, as many of the most important as do, and the rest
    /// are [streamed](Self::stream). For `importance` see [`StreamPlan::new`].
    ///
    /// # Errors
    ///
    /// Not even streaming fits, or as for [`load`](Self::load).
    pub fn load_within(
        engine: &Engine,
        package: &Package,
        importance: Option<&[f32]>,
        memory: u64,
    ) -> Result<Self, EngineError> {
        if crate::packed_groups_bytes(package) <= memory {
            return Self::load_all(engine, package);
        }
        let plan = StreamPlan::new(package, importance, memory)?;
        Self::stream(engine, package, &plan.resident, plan.streamed)
    }

    /// Loads what `order` has first, and returns; a thread loads the rest, and each batch joins the next pass after it is
    /// there. Until then its groups contribute nothing: see [`loaded`](Self::loaded).
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load), for the first groups. What goes wrong later is an error of a later pass.
    pub fn load_beside(
        engine: &Engine,
        package: &Package,
        order: LoadOrder,
    ) -> Result<Self, EngineError> {
        // One after the other: they would share the disk.
        let mut first = Self::load(engine, package, &order.first)?;
        first.loader = Some(Loader::start(engine, package, order.rest)?);
        Ok(first)
    }

    /// Loads the groups of `resident`, and reads those of `streamed` anew for every pass: a thread keeps ahead of the
    /// computation. Every pass computes all of both, as if they were in memory.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load). What the disk does not give later is an error of the pass that needs it.
    pub fn stream(
        engine: &Engine,
        package: &Package,
        resident: &[Vec<u32>],
        streamed: Vec<Vec<u32>>,
    ) -> Result<Self, EngineError> {
        let mut first = Self::load(engine, package, resident)?;
        first.stream = Some(Stream::start(engine, package, streamed)?);
        Ok(first)
    }

    /// How far loading is.
    pub fn loaded(&self) -> Loaded {
        self.loader
            .as_ref()
            .map_or_else(Loaded::default, Loader::loaded)
    }

    /// What streaming has done so far, if groups are streamed.
    pub fn streamed(&self) -> Option<Streamed> {
        self.stream.as_ref().map(Stream::streamed)
    }

    /// Computes this node's partial of one layer: `normed` and `partial` are `[rows, width]`. Zero where it has no group.
    ///
    /// # Errors
    ///
    /// The buffers do not fit, ONNX Runtime fails, or groups that are still being loaded cannot be.
    pub fn run(
        &mut self,
        layer: usize,
        normed: &[f32],
        partial: &mut [f32],
    ) -> Result<(), EngineError> {
        self.run_with(layer, normed, partial, None)
    }

    /// As [`run`](Self::run), and gives the neurons' activations, `silu(gate) * up`: `[rows, groups * group_size]`, in the
    /// order in which [`load`](Self::load) was given the groups. For calibration; those of streamed groups are left out.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_observed(
        &mut self,
        layer: usize,
        normed: &[f32],
        partial: &mut [f32],
        activations: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        activations.clear();
        self.run_with(layer, normed, partial, Some(activations))
    }

    fn run_with(
        &mut self,
        layer: usize,
        normed: &[f32],
        partial: &mut [f32],
        mut observed: Option<&mut Vec<f32>>,
    ) -> Result<(), EngineError> {
        let rows = normed.len() / self.width;
        if normed.len() != rows * self.width || partial.len() != normed.len() || rows == 0 {
            return Err(EngineError::Mismatch {
                what: "values of the feed-forward's rows",
                expected: rows * self.width,
                got: partial.len(),
            });
        }
        if let Some(loader) = &mut self.loader {
            while let Some(block) = loader.arrived()? {
                self.layers[block.layer()].push(block);
            }
        }
        let count = self.layers.len();
        let Some(blocks) = self.layers.get_mut(layer) else {
            return Err(EngineError::Mismatch {
                what: "layer",
                expected: count,
                got: layer,
            });
        };
        partial.fill(0.0);
        let stream = &mut self.stream;
        self.slowdown.run(|| {
            let computing = trace_span!(target: TIMELINE, "feed-forward", layer).entered();
            for block in blocks {
                block.run(normed, partial, observed.as_deref_mut())?;
            }
            drop(computing);
            match stream {
                Some(stream) => stream.add(layer, normed, partial),
                None => Ok(()),
            }
        })
    }
}

/// This machine alone: whatever groups it has.
impl FeedForwardSource for FeedForward {
    type Error = EngineError;

    fn begin(&mut self, _embedded: &[f32]) -> Result<(), EngineError> {
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EngineError> {
        self.run(step.layer, step.normed, step.sum)
    }
}
