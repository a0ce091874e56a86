//! Compiled policies, kept for the next start.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};
use tracing::{debug, warn};
use wasmtime::{Engine, component::Component};

use crate::Digest;

/// Files that are kept; the oldest go. Those of other engines and processors are among them.
const KEPT: usize = 16;

/// Larger files are none of ours. A component of some megabytes has a few times as much machine code.
const MAX_SIZE: u64 = 256 << 20;

/// Bytes of the digest that a file begins with.
const DIGEST: usize = 32;

/// A folder of machine code that this user's processes have compiled.
///
/// Whoever writes such a file decides what this process does, so one is used only if this user wrote it, in a folder that
/// nobody else can write to; nothing is ever put there that came from another machine. Each file begins with a digest of
/// its name and the rest, which finds what a disk has damaged: wasmtime takes code as it is.
#[derive(Debug)]
pub(crate) struct Precompiled {
    folder: PathBuf,
    /// Stands for the engine's version and configuration, and the processor's features that it compiles for.
    engine: u64,
}

impl Precompiled {
    pub(crate) fn new(folder: PathBuf, engine: &Engine) -> Self {
        // Another hasher in a later release costs no more than compiling once.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self {
            folder,
            engine: hasher.finish(),
        }
    }

    /// The component whose WebAssembly has this digest, if it was compiled earlier.
    pub(crate) fn load(&self, engine: &Engine, component: Digest) -> Option<Component> {
        let code = match self.read(&self.name(component)) {
            Ok(code) => code,
            Err(error) => {
                // The first time is no news, nor that another user keeps the data folder.
                if !matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied
                ) {
                    warn!(
                        "cannot use what was compiled earlier, in {}: {error}; compiling anew",
                        self.folder.display()
                    );
                }
                return None;
            }
        };
        #[allow(
            unsafe_code,
            reason = "machine code cannot be checked, only its origin"
        )]
        // SAFETY: the bytes are what `Component::serialize` gave to a process of this user: the file and its folder are
        // this user's, nobody else may write to them, and the digest shows that they are whole. wasmtime itself refuses
        // those of another version, configuration or processor.
        let loaded = unsafe { Component::deserialize(engine, code) };
        loaded
            .inspect_err(|error| debug!("compiling {component} anew: {error:#}"))
            .ok()
    }

    /// Keeps a component for the next time. Where that is impossible, such as on a read-only disk, nothing is kept.
    pub(crate) fn save(&self, digest: Digest, component: &Component) {
        let code = component.serialize().map_err(io::Error::other);
        let saved = code.and_then(|code| self.write(&self.name(digest), &code));
        if let Err(error) = saved {
            debug!(
                "what was compiled cannot be kept in {}: {error}",
                self.folder.display()
            );
        }
    }

    fn name(&self, component: Digest) -> String {
        format!("{component}-{:016x}", self.engine)
    }

    /// The code in a file of ours.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        check(&fs::metadata(&self.folder)?, &self.folder)?;
        let file = File::open(self.folder.join(name))?;
        let metadata = file.metadata()?;
        check(&metadata, Path::new(name))?;
        if !metadata.is_file() || metadata.len() > MAX_SIZE {
            return Err(io::Error::other(format!("{name} is not such a file")));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
        let code = bytes.split_off(bytes.len().min(DIGEST));
        if bytes != digest(name, &code).as_bytes() {
            return Err(io::Error::other(format!("{name} is damaged")));
        }
        Ok(code)
    }

    fn write(&self, name: &str, code: &[u8]) -> io::Result<()> {
        if let Some(parent) = self.folder.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => check(&fs::metadata(&self.folder)?, &self.folder)?,
        }
        // Made for its owner alone. Not synced: what a power cut leaves of it is found damaged.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(digest(name, code).as_bytes())?;
        file.write_all(code)?;
        file.persist(self.folder.join(name))?;
        self.prune()
    }

    /// Removes the oldest files, among them what interrupted processes have left.
    fn prune(&self) -> io::Result<()> {
        let files = fs::read_dir(&self.folder)?.map(|entry| {
            let entry = entry?;
            Ok((entry.metadata()?.modified()?, entry.path()))
        });
        let mut files = files.collect::<io::Result<Vec<(SystemTime, PathBuf)>>>()?;
        files.sort();
        for (_, path) in files.iter().rev().skip(KEPT) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Refuses what another user may have written.
fn check(found: &Metadata, path: &Path) -> io::Result<()> {
    const OTHERS_WRITE: u32 = 0o022;
    let path = path.display();
    if found.uid() != geteuid().as_raw() {
        let error = format!("{path} belongs to another user");
        return Err(io::Error::new(ErrorKind::PermissionDenied, error));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        let error = format!("other users may write to {path}; remove it");
        return Err(io::Error::other(error));
    }
    Ok(())
}

/// The digest of a file's name and of the code in it: one that is given another name is as good as damaged.
fn digest(name: &str, code: &[u8]) -> Digest {
    let hasher = Sha256::new().chain_update(name).chain_update(code);
    Digest::from_bytes(hasher.finalize().into())
}
