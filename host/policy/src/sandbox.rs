//! The WebAssembly engine that all policies of a node share.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use wasmtime::{
    Config, Engine, Store,
    component::{self, Linker},
};

use crate::{
    Component, Digest, Kind, Limits, PolicyError,
    contract::{self, VERSIONS},
    guest::Guest,
    precompiled::Precompiled,
    wasi,
};

/// How often the clock of the deadlines ticks: deadlines are kept to within one of these.
const TICK: Duration = Duration::from_millis(5);

/// The first bytes of a WebAssembly binary, up to what tells modules and components apart.
const MAGIC: &[u8] = b"\0asm";
const LAYER_MODULE: u8 = 0;

/// Compiles policies and keeps them within their limits. Cheap to clone; one a process is enough.
///
/// A thread drives the deadlines; it ends when the last clone is dropped.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    linker: Linker<Guest>,
    limits: Limits,
    precompiled: Option<Precompiled>,
    /// Dropping it stops the ticker.
    _ticker: mpsc::Sender<()>,
}

impl Sandbox {
    /// Sets up the engine and starts the clock of its deadlines.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Engine`] if the machine has no executable memory or threads to give, or wasmtime does not support it.
    pub fn new(limits: Limits) -> Result<Self, PolicyError> {
        Self::keeping(limits, None)
    }

    /// As [`new`](Self::new), and keeps what it compiles in a folder of its own, so that it need not be compiled again by the next
    /// process: that takes a tenth of the time or less. A file there is used only if this user has written it on a machine with
    /// this processor's features, with the same wasmtime; the folder is made for this user alone, and holds the latest few. Where it
    /// cannot be written, everything is compiled each time.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn keeping(limits: Limits, folder: Option<PathBuf>) -> Result<Self, PolicyError> {
        let failed = |error: wasmtime::Error| PolicyError::Engine {
            reason: format!("{error:#}"),
        };
        let mut config = Config::new();
        config.wasm_component_model(true).epoch_interruption(true);
        // Policies answer with the same bits on every machine. What bits a NaN has depends on the processor all the same: an
        // answer with one is refused, and making them alike would take a third of a probe's time.
        config.wasm_relaxed_simd(false);
        // Traps are reported in one line; nobody sees a backtrace.
        config.wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        contract::add_to_linker(&mut linker).map_err(failed)?;
        wasi::add_to_linker(&mut linker).map_err(failed)?;
        let ticker = start_ticker(&engine)?;
        Ok(Self {
            shared: Arc::new(Shared {
                precompiled: folder.map(|folder| Precompiled::new(folder, &engine)),
                engine,
                linker,
                limits,
                _ticker: ticker,
            }),
        })
    }

    /// What every policy may use.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Compiles a component and checks that it is a policy: it exports one of the two worlds and imports nothing that
    /// policies do not get. Takes tens of milliseconds, unless that was done before. Nothing of it is run.
    ///
    /// # Errors
    ///
    /// Says of bytes of any kind whatsoever why they are not a policy that this host can run.
    pub fn compile(&self, name: &str, bytes: &[u8]) -> Result<Component, PolicyError> {
        let limit = self.limits().component;
        let name_owned = || name.to_owned();
        if bytes.len() > limit {
            return Err(PolicyError::TooLarge {
                name: name_owned(),
                size: bytes.len(),
                limit,
            });
        }
        if !bytes.starts_with(MAGIC) {
            let start = bytes.iter().copied().take(MAGIC.len()).collect();
            return Err(PolicyError::NotWasm {
                name: name_owned(),
                start,
            });
        }
        // Bytes 4 and 5 are the version of the encoding, 6 and 7 the layer: module or component.
        if bytes.get(6) == Some(&LAYER_MODULE) {
            return Err(PolicyError::CoreModule { name: name_owned() });
        }
        let engine = &self.shared.engine;
        let digest = Digest::of(bytes);
        let (component, precompiled) =
            self.load_or_compile(digest, bytes)
                .map_err(|error| PolicyError::Invalid {
                    name: name_owned(),
                    reason: format!("{error:#}"),
                })?;
        let ty = component.component_type();
        let imports: Vec<String> = ty
            .imports(engine)
            .map(|(import, _)| import.to_owned())
            .collect();
        let exports: Vec<String> = ty
            .exports(engine)
            .map(|(export, _)| export.to_owned())
            .collect();
        if let Some(import) = imports.iter().find(|import| !is_known_import(import)) {
            return Err(PolicyError::UnknownImport {
                name: name_owned(),
                import: import.clone(),
            });
        }
        let (kind, version) = world_of(&exports).map_err(|found| PolicyError::NoWorld {
            name: name_owned(),
            supported: VERSIONS.join(" or "),
            found,
        })?;
        let mismatch = |error: wasmtime::Error| PolicyError::Mismatch {
            name: name_owned(),
            kind,
            reason: format!("{error:#}"),
        };
        let pre = self
            .shared
            .linker
            .instantiate_pre(&component)
            .map_err(mismatch)?;
        let world = contract::world(kind, &version, pre).map_err(mismatch)?;
        Ok(Component {
            name: name.into(),
            version: version.into(),
            digest,
            size: bytes.len(),
            imports: imports.into(),
            exports: exports.into(),
            precompiled,
            world,
        })
    }

    /// The component with this digest, and whether it was compiled earlier.
    fn load_or_compile(
        &self,
        digest: Digest,
        bytes: &[u8],
    ) -> wasmtime::Result<(component::Component, bool)> {
        let engine = &self.shared.engine;
        let kept = self.shared.precompiled.as_ref();
        if let Some(component) = kept.and_then(|kept| kept.load(engine, digest)) {
            return Ok((component, true));
        }
        let component = component::Component::from_binary(engine, bytes)?;
        if let Some(kept) = kept {
            kept.save(digest, &component);
        }
        Ok((component, false))
    }

    /// A fresh store for one instance of `policy`.
    pub(crate) fn store(&self, policy: &Arc<str>) -> Store<Guest> {
        let mut store = Store::new(
            &self.shared.engine,
            Guest::new(policy.clone(), self.limits()),
        );
        store.limiter(|guest| guest.limiter());
        store.epoch_deadline_trap();
        store
    }

    /// Gives the next call of `store` its time and its data.
    pub(crate) fn arm(&self, store: &mut Store<Guest>, time: Duration) {
        // The tick under way may be over at once, so one more than fit; the result is at least `time`.
        let ticks = time.as_nanos().div_ceil(TICK.as_nanos()).saturating_add(1);
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX >> 1));
        store.set_hostcall_fuel(self.limits().message);
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("limits", self.limits())
            .finish_non_exhaustive()
    }
}

/// Whether policies get the interface `import`. Types are always there: they are only descriptions.
fn is_known_import(import: &str) -> bool {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    match interface {
        "halo:policy/types" | "halo:policy/host" => VERSIONS.contains(&version),
        _ => wasi::is_known(import),
    }
}

/// The world that a component's exports make it, and its version; or what it exports instead, in words.
pub(crate) fn world_of(exports: &[String]) -> Result<(Kind, String), String> {
    let find = |interface: &str| {
        exports
            .iter()
            .find_map(|export| export.strip_prefix(interface)?.strip_prefix('@'))
            .map(str::to_owned)
    };
    let scheduler = find("halo:policy/scheduler");
    let predictor = find("halo:policy/predictor");
    match (scheduler, predictor) {
        (Some(_), Some(_)) => Err("it exports both; a policy is one of them".into()),
        (Some(version), None) | (None, Some(version)) if !VERSIONS.contains(&version.as_str()) => {
            Err(format!(
                "it was built for halo:policy {version}; build it again with this host's wit folder"
            ))
        }
        (Some(version), None) => Ok((Kind::Scheduler, version)),
        (None, Some(version)) => Ok((Kind::Predictor, version)),
        (None, None) if exports.is_empty() => Err("it exports nothing".into()),
        (None, None) => Err(format!("it exports {}", exports.join(", "))),
    }
}

/// Starts the thread that moves `engine`'s epoch on. It ends when the sender is dropped.
fn start_ticker(engine: &Engine) -> Result<mpsc::Sender<()>, PolicyError> {
    let (sender, receiver) = mpsc::channel();
    let engine = engine.clone();
    thread::Builder::new()
        .name("policy-deadlines".into())
        .spawn(move || {
            while receiver.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        })
        .map_err(|error| PolicyError::Engine {
            reason: format!("no thread for the deadlines: {error}"),
        })?;
    Ok(sender)
}
