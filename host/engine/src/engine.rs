use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::ep;
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use crate::error::Context;
use crate::slowdown::Slowdown;
use crate::{EngineError, library};

/// How to start the engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineOptions {
    /// The ONNX Runtime library; by default [`library::find`] looks for one.
    pub library: Option<PathBuf>,
    /// Threads that compute; by default as many as the process may run on.
    pub threads: Option<usize>,
    /// Let the threads wait for the next product awake: a few percent faster on a machine that does nothing else, and in the
    /// way of everything else on a machine that does.
    pub spin: bool,
    /// Take this many times as long for every product as it takes, to stand for a slower machine.
    pub slowdown: Option<f64>,
}

/// ONNX Runtime, loaded and with its thread pool running. One per process; clones share it.
#[derive(Clone)]
pub struct Engine {
    environment: Environment,
    library: PathBuf,
    threads: usize,
    slowdown: Slowdown,
}

/// ONNX Runtime allows one environment per process and never a second, not even after the first is gone.
static RUNNING: Mutex<Option<Engine>> = Mutex::new(None);

impl Engine {
    /// Loads ONNX Runtime and starts its thread pool. A second call gives the engine that already runs.
    ///
    /// # Errors
    ///
    /// No library is found, it cannot be used, or the engine already runs with different options.
    pub fn start(options: &EngineOptions) -> Result<Self, EngineError> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = options
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1);
        let library = library::find(options.library.as_deref())?;
        let slowdown = Slowdown::new(options.slowdown);
        if let Some(engine) = &*running {
            let same = engine.library == library
                && engine.threads == threads
                && engine.slowdown == slowdown;
            return if same {
                Ok(engine.clone())
            } else {
                Err(EngineError::AlreadyStarted {
                    running: format!("{engine:?}"),
                })
            };
        }
        let unusable = |reason: String| EngineError::LibraryUnusable {
            path: library.clone(),
            reason,
        };
        if let Some(reason) = library::misfit(&library) {
            return Err(unusable(reason));
        }
        let builder = ort::init_from(&library).map_err(|e| unusable(e.to_string()))?;
        let pool = GlobalThreadPoolOptions::default()
            .with_intra_threads(threads)
            .and_then(|o| o.with_inter_threads(1))
            // Between two rounds, the threads of a node in a cluster would spin on the cores that the network needs.
            .and_then(|o| o.with_spin_control(options.spin))
            .context(|| "the thread pool".into())?;
        let environment = builder
            .with_name("halo")
            .with_telemetry(false)
            .with_global_thread_pool(pool)
            .build()
            .context(|| "the environment".into())?;
        let engine = Self {
            environment,
            library,
            threads,
            slowdown,
        };
        *running = Some(engine.clone());
        Ok(engine)
    }

    /// The library in use.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// What the library says of its own build: version, commit, compiler flags.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// How much longer than it could it takes for products.
    pub(crate) fn slowdown(&self) -> Slowdown {
        self.slowdown
    }

    /// Options of a session that runs on the global thread pool.
    pub(crate) fn session(&self) -> Result<SessionBuilder, EngineError> {
        let mut builder = Session::builder(&self.environment)
            .context(|| "a session's options".into())?
            // Row counts change from run to run, which makes a memory pattern useless and its cache grow.
            .with_memory_pattern(false)
            .context(|| "a session's options".into())?
            // Every session would have an arena of its own, which grows by powers of two.
            .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])
            .context(|| "a session's options".into())?;
        // ort 2.0.0-rc.15 switches a session's own threads off when it reads a model, but not when it takes one from the
        // model editor: every session would get a pool of its own, spinning. Having it read an empty model, which fails,
        // leaves the switch as it should be. `tests/threads.rs` notices when this is no longer so.
        let _ = builder.commit_from_memory(&[]);
        Ok(builder)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("library", &self.library)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
