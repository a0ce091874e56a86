use std::path::PathBuf;

/// Whatever can go wrong in the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No ONNX Runtime library in any of the places where one is looked for.
    #[error(
        "found no ONNX Runtime library (libonnxruntime.so); looked at {}. Run `cargo xtask setup` to fetch one, or set ORT_DYLIB_PATH to yours",
        list(.looked_at)
    )]
    NoLibrary {
        /// The places, in the order they were tried.
        looked_at: Vec<PathBuf>,
    },

    /// A library was named by the user but is not there.
    #[error(
        "{named_by} names {} as the ONNX Runtime library, but there is no such file; correct it, or leave it out and run `cargo xtask setup`",
        .path.display()
    )]
    LibraryMissing {
        /// `ORT_DYLIB_PATH` or the configuration key.
        named_by: &'static str,
        /// What it says.
        path: PathBuf,
    },

    /// The library is there but cannot be used: not a library, for another architecture, or too old.
    #[error(
        "cannot use the ONNX Runtime library {}: {reason}; `cargo xtask setup` fetches one for this machine", .path.display()
    )]
    LibraryUnusable {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },

    /// The engine of this process already runs on another library or thread count. ONNX Runtime allows one environment.
    #[error(
        "ONNX Runtime is already running in this process with other options ({running}); it cannot be started twice"
    )]
    AlreadyStarted {
        /// What it was started with.
        running: String,
    },

    /// ONNX Runtime refused a graph, or a run of it failed.
    #[error("ONNX Runtime failed on {what}: {source}")]
    Onnx {
        /// The graph and what was being done with it.
        what: String,
        /// ONNX Runtime's words.
        source: ort::Error,
    },

    /// The package's weights cannot be used.
    #[error(transparent)]
    Package(#[from] halo_models::PackageError),

    /// More tokens than the KV cache was made for.
    #[error("the KV cache holds {capacity} tokens; {wanted} are needed")]
    CacheFull {
        /// Its capacity in tokens.
        capacity: usize,
        /// What the pass would have needed.
        wanted: usize,
    },

    /// There is no memory for the KV cache.
    #[error("no memory for a KV cache of {tokens} tokens; a smaller --context takes less")]
    CacheMemory {
        /// What it would have had room for.
        tokens: usize,
    },

    /// A thread cannot be started.
    #[error("cannot start a thread to load weights: {0}")]
    Thread(std::io::Error),

    /// The thread that loads weights has ended before its work was done; what it met was an error of an earlier pass.
    #[error("loading the weights has stopped; start again")]
    LoadingEnded,

    /// Streaming needs more memory than there is.
    #[error(
        "the model's feed-forward groups do not fit the memory, and streaming them takes at least {:.1} MB; {:.1} MB are left for \
         them: raise `memory` (--memory), or lead a cluster with --cluster",
        *.needed as f64 / 1e6, *.budget as f64 / 1e6
    )]
    MemoryTooSmall {
        /// What the layers in flight take.
        needed: u64,
        /// What was given.
        budget: u64,
    },

    /// A caller's buffer or index does not fit the model.
    #[error("{what}: expected {expected}, got {got}")]
    Mismatch {
        /// What does not fit.
        what: &'static str,
        /// What would.
        expected: usize,
        /// What came.
        got: usize,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Says what was being done when ONNX Runtime failed.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, EngineError>;
}

impl<T, R> Context<T> for Result<T, ort::Error<R>> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, EngineError> {
        self.map_err(|source| EngineError::Onnx {
            what: what(),
            source: ort::Error::new_with_code(source.code(), source.message()),
        })
    }
}
