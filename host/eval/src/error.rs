use std::io;
use std::path::PathBuf;

use halo_engine::EngineError;
use halo_models::PackageError;
use halo_runtime::GenerationError;

/// Why a model could not be evaluated or calibrated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The model could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The package or its tokenizer cannot be used.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The cluster that runs the model could not go on.
    #[error(transparent)]
    Cluster(#[from] GenerationError),
    /// No document has a token to predict.
    #[error(
        "there is nothing to predict in {documents} documents; give text of at least a few words"
    )]
    NothingToPredict {
        /// How many documents were given.
        documents: usize,
    },
    /// A text has no document, or just one.
    #[error(
        "{name} has {documents} documents, but calibration needs 2 at least, one to fit and one to choose by; give a longer text, shorter runs of paragraphs, or skip fewer paragraphs"
    )]
    TooFewDocuments {
        /// The text's name.
        name: String,
        /// Documents in it.
        documents: usize,
    },
    /// Less text than the probe has coefficients per group.
    #[error(
        "the text to fit has {rows} tokens, but a model of width {needed} needs {needed} at least, and better ten times that; give more text"
    )]
    TooFewTokens {
        /// Tokens in the documents to fit.
        rows: usize,
        /// Tokens that are needed.
        needed: usize,
    },
    /// A policy that is measured, or measured with, failed.
    #[error("{0}; `halo policy test` says more of what a policy does")]
    Policy(String),
    /// What was learnt so far cannot be kept.
    #[error(
        "what was learnt so far cannot be kept in {}: {source}; make room there, or calibrate without keeping it",
        path.display()
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An option that cannot be.
    #[error("{0}")]
    Option(String),
    /// The model computes numbers that are not finite, or of which no probe can be fitted.
    #[error("layer {layer}: {what}; the package's weights may be damaged, import the model again")]
    NotFinite {
        /// The layer.
        layer: usize,
        /// What came out.
        what: &'static str,
    },
}
