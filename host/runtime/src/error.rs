use std::sync::Arc;

use halo_engine::EngineError;
use halo_fabric::{CallError, FabricError, NodeId, ShapeError};
use halo_models::PackageError;
use halo_policy::PolicyError;

use crate::memory::NoRoom;
use crate::sampler::OutOfRange;

/// Why a generation could not begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// There is nothing to continue.
    #[error("the prompt is empty; give some text to continue")]
    EmptyPrompt,
    /// A stop string that every text has.
    #[error("a stop string is empty, and would end the text before it begins; leave it out")]
    EmptyStop,
    /// A sampling parameter.
    #[error(transparent)]
    Sampling(#[from] OutOfRange),
    /// The prompt does not leave room for a single token.
    #[error(
        "the prompt has {tokens} tokens; the context holds {context}, and the answer needs some of them. Shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens the model can see, or may.
        context: usize,
    },
    /// A longer context was asked for than the model has.
    #[error(
        "a context of {wanted} tokens was asked for (--context), and the model was made for {context}; ask for {context} at most"
    )]
    ContextTooLong {
        /// Tokens asked for.
        wanted: usize,
        /// Tokens of the model's.
        context: usize,
    },
    /// The model gave no logit that is a number.
    #[error(
        "the model's logits are not numbers; its weights are damaged (`halo model inspect --verify` checks them)"
    )]
    NoLogits,
    /// The keys and values of prompt and answer do not fit the memory.
    #[error(
        "the KV cache of {tokens} tokens takes {:.1} MB, and {:.1} MB of memory are available, enough for {fits} tokens of prompt and \
         answer; shorten the prompt, or ask for fewer tokens (--max-tokens)",
        *.needed as f64 / 1e6, *.available as f64 / 1e6
    )]
    NoMemory {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// Bytes that they take.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// Tokens that those are enough for.
        fits: u64,
    },
    /// As many generations are under way as can be.
    #[error("{most} generations are under way, and there cannot be more; wait until one has ended")]
    Full {
        /// How many can be.
        most: usize,
    },
    /// The pass that several generations shared failed.
    #[error("{0}")]
    Shared(Arc<GenerationError>),
    /// Attention has been placed elsewhere in the middle of a pass. The generator starts over, so nobody is told.
    #[error("attention has been placed elsewhere")]
    Moved,
    /// What ran the generations is gone.
    #[error("generating has been shut down")]
    Closed,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tokenizer failed.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Strict synchronisation lost workers, and no new placement came in time.
    #[error("{} did not answer within the bound, and there is no placement without them: {why}", names(.workers))]
    Stuck {
        /// Who owed a partial.
        workers: Vec<NodeId>,
        /// Why there is no other placement.
        why: String,
    },
    /// A link could not be made.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// No round can have the shape that is needed.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// No first placement was found.
    #[error("no placement: {0}")]
    Placement(String),
}

/// Why a node could not start, lead or serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The network.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The model's package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// ONNX Runtime.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A scheduler or predictor.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Weights and KV cache do not fit the memory that there is.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The workers are there, but the model does not fit all of them together.
    #[error(
        "the model's neuron groups need {:.1} MB, and the leader and {workers} worker(s) of cluster `{cluster}` may together take \
         {:.1} MB; start more workers, or raise `memory` in their configuration or with --memory",
        *.needed as f64 / 1e6, *.memory as f64 / 1e6
    )]
    ClusterTooSmall {
        /// The cluster's name.
        cluster: String,
        /// Workers with this model.
        workers: usize,
        /// Bytes of all groups.
        needed: u64,
        /// Bytes that the nodes may take for them.
        memory: u64,
    },
    /// A cluster was asked for, and too few are there.
    #[error(
        "found {} with this model in cluster `{cluster}` within {seconds} s. {found}. {advice}",
        too_few(*.wanted)
    )]
    NoWorkers {
        /// Workers that were asked for.
        wanted: usize,
        /// The cluster's name.
        cluster: String,
        /// How long they were waited for.
        seconds: u64,
        /// Who is there instead.
        found: String,
        /// What to do.
        advice: String,
    },
    /// Workers were chosen, and are not all there, or do not take a part.
    #[error(
        "there is no placement on {} after {seconds} s; `halo status` says which of them are there, and their own logs why they take no part",
        chosen(.workers)
    )]
    NotPlaced {
        /// Those that were chosen.
        workers: Vec<NodeId>,
        /// How long they were waited for.
        seconds: u64,
    },
    /// Nodes send tensors over different things.
    #[error("{0}")]
    MixedTransports(String),
    /// The first generation could not be set up.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// There is nowhere to keep a package that comes from another node.
    #[error(
        "there is no model, and no folder to keep one in that another node gives; name a model with --model, or a folder with --cache"
    )]
    NoCache,
    /// A node did not do what it was asked for.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A background task ended unexpectedly.
    #[error("a background task failed: {0}")]
    Task(String),
}

fn too_few(wanted: usize) -> String {
    match wanted {
        1 => "no worker".into(),
        wanted => format!("fewer than {wanted} workers"),
    }
}

fn chosen(workers: &[NodeId]) -> String {
    match workers {
        [] => "the leader alone".into(),
        workers => names(workers),
    }
}

fn names(nodes: &[NodeId]) -> String {
    nodes
        .iter()
        .map(NodeId::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
