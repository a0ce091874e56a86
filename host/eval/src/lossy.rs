//! The feed-forward of a cluster whose network loses packets, on this machine.

use halo_engine::{Engine, EngineError, FeedForward, FeedForwardSource, FeedForwardStep};
use halo_fabric::{Assembly, Encoding, FaultInjector, Faults, Header, Kind, Loss, TensorShape};
use halo_models::Package;
use halo_runtime::{Concealer, Concealment};

use crate::EvalError;

/// What is lost, and what is put in its place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossyOptions {
    /// Nodes beside the leader. Every node computes as many groups.
    pub workers: usize,
    /// Share of the partials' packets that is lost, and not asked for again.
    pub loss: f64,
    /// What takes its place.
    pub conceal: Concealment,
    /// How partials travel.
    pub encoding: Encoding,
    /// Seed of the choice what to lose.
    pub seed: u64,
}

/// A leader's groups, and workers' whose partials go through packets some of which are lost.
#[derive(Debug)]
pub struct Lossy {
    leader: FeedForward,
    workers: Vec<FeedForward>,
    losses: FaultInjector,
    concealer: Concealer,
    encoding: Encoding,
    width: usize,
}

impl Lossy {
    /// Loads all groups, each for one node.
    ///
    /// # Errors
    ///
    /// The share is none, or the model cannot be loaded.
    pub fn load(
        engine: &Engine,
        package: &Package,
        options: &LossyOptions,
    ) -> Result<Self, EvalError> {
        let nodes = 1 + options.workers;
        let load = |node: usize| {
            let groups =
                (0..package.groups() as u32).filter(|group| *group as usize % nodes == node);
            let groups = vec![groups.collect::<Vec<_>>(); package.shape().layers];
            FeedForward::load(engine, package, &groups)
        };
        let faults = Faults {
            loss: Loss::Random { rate: options.loss },
            seed: options.seed,
        };
        Ok(Self {
            leader: load(0)?,
            workers: (1..nodes).map(load).collect::<Result<_, EngineError>>()?,
            losses: FaultInjector::new(&faults).map_err(|e| EvalError::Option(e.to_string()))?,
            concealer: Concealer::new(options.conceal),
            encoding: options.encoding,
            width: package.shape().width,
        })
    }
}

impl FeedForwardSource for Lossy {
    type Error = EvalError;

    fn begin(&mut self, _embedded: &[f32]) -> Result<(), EvalError> {
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EvalError> {
        self.leader.run(step.layer, step.normed, step.sum)?;
        let rows = step.normed.len() / self.width;
        let shape = TensorShape::new(rows, self.width, self.encoding)
            .map_err(|e| EvalError::Option(e.to_string()))?;
        let mut values = vec![0.0; shape.values()];
        for (worker, groups) in self.workers.iter_mut().enumerate() {
            groups.run(step.layer, step.normed, &mut values)?;
            let mut partial = Assembly::new(shape);
            let header = Header::of_tensor(Kind::Partial, &shape);
            for chunk in (0..shape.chunks()).filter(|_| !self.losses.loses()) {
                let mut body = Vec::new();
                shape.encode_chunk(chunk, &values, &mut body);
                partial.accept(&Header { chunk, ..header }, &body);
            }
            self.concealer.conceal(worker, step.layer, &mut partial);
            for (sum, value) in step.sum.iter_mut().zip(partial.values()) {
                *sum += value;
            }
        }
        Ok(())
    }
}
