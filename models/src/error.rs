//! What can go wrong with a package or with importing one.

use std::io;
use std::path::{Path, PathBuf};

use crate::{GgufError, ShapeError, TensorError};

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// There is no manifest.
    #[error("{} is not a model package: it has no manifest.json; `halo model import` makes packages", dir.display())]
    NotAPackage {
        /// The folder.
        dir: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest says something it must not.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The manifest's format is newer or older than this build's.
    #[error("{}: package format {found}, but this build reads format {supported}; import the model again", path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The format it has.
        found: u32,
        /// The format this build reads.
        supported: u32,
    },
    /// The manifest's shape is impossible.
    #[error("{}: {source}", path.display())]
    Shape {
        /// The manifest.
        path: PathBuf,
        /// Which dimension.
        source: ShapeError,
    },
    /// A file that the manifest lists is not there.
    #[error("{} is missing; copy or import the package again", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is not as long as the manifest says.
    #[error("{} has {found} bytes, but the manifest says {expected}; copy or import the package again", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },
    /// A file's content is not what the manifest says.
    #[error("{} has SHA-256 {found}, but the manifest says {expected}; copy or import the package again", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Hash by the manifest.
        expected: String,
        /// Hash of what is on disk.
        found: String,
    },
    /// A tensor file, or a tensor in it, is not what it must be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The tokenizer cannot be read, or failed on a text.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer can make tokens that the model does not know.
    #[error("{}: token {largest} is beyond the model's vocabulary of {vocabulary}; this tokenizer belongs to another model", path.display())]
    Vocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// The largest token the tokenizer can make.
        largest: u32,
        /// The model's vocabulary.
        vocabulary: usize,
    },
    /// The chat template cannot be read, or failed on a conversation.
    #[error("{}:{line}: {reason}", path.display())]
    ChatTemplate {
        /// The template's file.
        path: PathBuf,
        /// The line in it, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A token that the model does not know.
    #[error("token {token} is beyond the model's vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// The model's vocabulary.
        vocabulary: usize,
    },
    /// A calibration that cannot be stored.
    #[error("calibration array `{array}`: {reason}")]
    Calibration {
        /// The array's name.
        array: String,
        /// What is wrong.
        reason: String,
    },
}

impl PackageError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// There is a package where this one should go.
    #[error("{} is a package already; choose another place, or replace it with --overwrite", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is there and is not a package, so it is not replaced even if that was allowed.
    #[error("{} exists and is not a model package, so it is not replaced; choose another place", path.display())]
    NotAPackage {
        /// The destination.
        path: PathBuf,
    },
    /// An option that cannot be.
    #[error("{0}")]
    Option(String),
    /// A file that a Hugging Face model folder must have is missing.
    #[error("{} is missing; a model folder has config.json, model.safetensors (or model.safetensors.index.json and its parts) and tokenizer.json", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `config.json` or the index of the parts is not what it must be.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The model is of a kind that HALO does not run.
    #[error("{}: HALO does not run models with {what}; it runs the LLaMA family: model_type llama, mistral, qwen2 or qwen3", path.display())]
    Unsupported {
        /// The configuration.
        path: PathBuf,
        /// What is not supported.
        what: String,
    },
    /// The configuration's dimensions are impossible.
    #[error("{}: {source}", path.display())]
    Shape {
        /// The configuration.
        path: PathBuf,
        /// Which dimension.
        source: ShapeError,
    },
    /// A GGUF file is not what it must be.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A weight file, or a tensor in it, is not what it must be.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The package that was made cannot be used, or the tokenizer does not fit.
    #[error(transparent)]
    Package(#[from] PackageError),
}

impl ImportError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}
