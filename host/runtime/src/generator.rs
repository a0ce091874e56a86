use std::ops::ControlFlow;

use halo_engine::{Backbone, Engine, FeedForward, FeedForwardSource, FeedForwardStep};
use halo_models::{Package, Tokenizer};

use crate::error::{GenerationError, NodeError};
use crate::generation::{self, Report, Request, Source, Token};
use crate::memory;
use crate::telemetry::Counts;

/// A model that is ready to generate, on this machine alone or at the head of a cluster.
pub struct Generator {
    backbone: Backbone,
    tokenizer: Tokenizer,
    source: Box<dyn Source + Send>,
}

impl Generator {
    /// The whole model on this machine.
    ///
    /// # Errors
    ///
    /// It does not fit the memory, or cannot be loaded.
    pub fn alone(
        engine: &Engine,
        package: &Package,
        memory: Option<u64>,
    ) -> Result<Self, NodeError> {
        let needed = package.all_groups_bytes();
        if let Some(memory) = memory.or_else(memory::available).filter(|m| needed > *m) {
            return Err(NodeError::TooLarge { needed, memory });
        }
        let source = Box::new(Alone(FeedForward::load_all(engine, package)?));
        Self::new(engine, package, source)
    }

    pub(crate) fn new(
        engine: &Engine,
        package: &Package,
        source: Box<dyn Source + Send>,
    ) -> Result<Self, NodeError> {
        Ok(Self {
            backbone: Backbone::load(engine, package)?,
            tokenizer: package.tokenizer()?,
            source,
        })
    }

    /// Checks whether a request can be met at all, before anything of it is shown.
    ///
    /// # Errors
    ///
    /// The prompt is empty or too long.
    pub fn check(&self, request: &Request) -> Result<(), GenerationError> {
        let shape = self.backbone.package().shape();
        generation::encode(shape, &self.tokenizer, &request.prompt).map(drop)
    }

    /// Generates tokens, telling `each` of every one as it comes.
    ///
    /// # Errors
    ///
    /// The prompt is empty or too long, or the generation cannot go on.
    pub fn generate(
        &mut self,
        request: &Request,
        each: impl FnMut(&Token) -> ControlFlow<()>,
    ) -> Result<Report, GenerationError> {
        generation::generate(
            &mut self.backbone,
            &self.tokenizer,
            &mut *self.source,
            request,
            each,
        )
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator")
            .field("package", self.backbone.package())
            .finish_non_exhaustive()
    }
}

/// All groups on this machine: no rounds, nothing lost.
struct Alone(FeedForward);

impl FeedForwardSource for Alone {
    type Error = GenerationError;

    fn begin(&mut self, embedded: &[f32]) -> Result<(), GenerationError> {
        Ok(self.0.begin(embedded)?)
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), GenerationError> {
        Ok(self.0.step(step)?)
    }
}

impl Source for Alone {
    fn restart(&mut self) {}

    fn concealed(&self) -> f32 {
        0.0
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }
}
