//! Why a policy could not be loaded or put in force.

use std::{io, path::PathBuf};

use crate::{Digest, Fault, Kind};

/// Why a policy could not be found, compiled, saved or put in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The WebAssembly engine could not be set up on this machine.
    #[error("cannot set up the WebAssembly engine: {reason}")]
    Engine {
        /// wasmtime's words.
        reason: String,
    },
    /// The file is larger than a component may be.
    #[error("policy {name:?} has {size} bytes; {limit} are allowed")]
    TooLarge {
        /// The policy's name.
        name: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The bytes are not WebAssembly at all.
    #[error(
        "policy {name:?} is not WebAssembly: it begins with {start:02x?} instead of [00, 61, 73, 6d]; `cargo xtask policies` makes components"
    )]
    NotWasm {
        /// The policy's name.
        name: String,
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// The bytes are a core module, not a component.
    #[error(
        "policy {name:?} is a core WebAssembly module, not a component: make one of it with `wasm-tools component new`, \
         or build it with `cargo xtask policies` or for the target wasm32-wasip2"
    )]
    CoreModule {
        /// The policy's name.
        name: String,
    },
    /// The component is not valid, or needs WebAssembly features that are off.
    #[error("policy {name:?} is not a valid component: {reason}")]
    Invalid {
        /// The policy's name.
        name: String,
        /// wasmtime's words.
        reason: String,
    },
    /// The component imports what policies may not have.
    #[error(
        "policy {name:?} imports {import:?}, which policies do not get: only `halo:policy/host` and WASI 0.2 interfaces \
         of `wasi:cli`, `clocks`, `filesystem`, `io`, `random` and `sockets` are there (and do nothing)"
    )]
    UnknownImport {
        /// The policy's name.
        name: String,
        /// The first import that is not known.
        import: String,
    },
    /// The component exports neither world of this version.
    #[error(
        "policy {name:?} exports neither `halo:policy/scheduler` nor `halo:policy/predictor` of {supported}: {found}"
    )]
    NoWorld {
        /// The policy's name.
        name: String,
        /// The versions of the WIT package that this host speaks.
        supported: String,
        /// What it exports instead.
        found: String,
    },
    /// The component exports an interface of the right name, but with other functions or types.
    #[error("policy {name:?} does not fit the {kind} world: {reason}")]
    Mismatch {
        /// The policy's name.
        name: String,
        /// The world that it claims.
        kind: Kind,
        /// wasmtime's words.
        reason: String,
    },
    /// A scheduler was put into a predictor's slot, or the other way round.
    #[error("policy {name:?} is a {found}; a {expected} is needed here")]
    WrongKind {
        /// The policy's name.
        name: String,
        /// What the slot takes.
        expected: Kind,
        /// What the component is.
        found: Kind,
    },
    /// The policy failed its initialisation or its trial; the one in force stays.
    #[error("not activated, the policy in force stays: {0}")]
    Trial(#[from] Fault),
    /// There is no policy of this name or digest.
    #[error("there is no policy {wanted:?}; there are: {available}")]
    NotFound {
        /// The name or digest asked for.
        wanted: String,
        /// The names that there are.
        available: String,
    },
    /// Several policies begin with this digest.
    #[error("{wanted:?} is the beginning of several policies' digests: {candidates}")]
    Ambiguous {
        /// The beginning of a digest that was asked for.
        wanted: String,
        /// The names and digests that fit.
        candidates: String,
    },
    /// The name cannot be a policy's.
    #[error(
        "{name:?} cannot be a policy's name: use 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.', not beginning with '.'"
    )]
    BadName {
        /// The name that was given.
        name: String,
    },
    /// The store has no folder to save to.
    #[error("no folder for policies is configured, so {name:?} cannot be saved")]
    NoFolder {
        /// The policy that was to be saved.
        name: String,
    },
    /// The file's contents are not those that its digest promises.
    #[error(
        "policy {name:?} has digest {found}, not {expected}: it was changed or damaged on its way"
    )]
    WrongDigest {
        /// The policy's name.
        name: String,
        /// The digest that it should have.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
}
