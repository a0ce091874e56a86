//! The policies that a node has: those built in, and a folder of others.

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde::Serialize;

use crate::{Digest, PolicyError};

/// Components that come with the binary.
const EMBEDDED: [(&str, &[u8]); 4] = [
    (
        "predictor-probe",
        include_bytes!("../../../plugins/components/predictor-probe.wasm"),
    ),
    (
        "predictor-static",
        include_bytes!("../../../plugins/components/predictor-static.wasm"),
    ),
    (
        "scheduler-even",
        include_bytes!("../../../plugins/components/scheduler-even.wasm"),
    ),
    (
        "scheduler-halo",
        include_bytes!("../../../plugins/components/scheduler-halo.wasm"),
    ),
];

const EXTENSION: &str = "wasm";
/// Earlier versions of a policy that are kept beside it, to go back to.
const VERSIONS: usize = 4;
/// Larger files are not policies; a sandbox may allow less.
const MAX_SIZE: u64 = 64 << 20;

/// The policies that a node has.
#[derive(Clone, Debug)]
pub struct PolicyStore {
    folder: Option<PathBuf>,
}

/// Where a policy comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It is part of the binary.
    Builtin,
    /// It is a file of the policy folder.
    File(PathBuf),
}

/// One policy of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name: that of its file without `.wasm`.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: usize,
    /// Where it comes from.
    pub origin: Origin,
}

/// A policy with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// The component.
    pub bytes: Cow<'static, [u8]>,
    /// Where it comes from.
    pub origin: Origin,
}

impl PolicyStore {
    /// Only the policies that come with the binary.
    pub fn builtin() -> Self {
        Self { folder: None }
    }

    /// Those of `folder` as well: its `*.wasm` files. It need not exist until something is saved.
    pub fn with_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: Some(folder.into()),
        }
    }

    /// All policies by name, the folder's before built-in ones of the same name.
    ///
    /// # Errors
    ///
    /// [`PolicyError::File`] if the folder or a file in it cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, PolicyError> {
        Ok(self.load()?.iter().map(Stored::entry).collect())
    }

    /// The policy of that name, or with that digest, of which 6 digits suffice. The folder's policy hides a built-in one of
    /// the same name.
    ///
    /// # Errors
    ///
    /// [`PolicyError::NotFound`] with what there is, [`PolicyError::Ambiguous`] for the beginning of several digests, and
    /// those of [`list`](Self::list).
    pub fn get(&self, wanted: &str) -> Result<Stored, PolicyError> {
        let all = self.load()?;
        if let Some(found) = all.iter().find(|stored| stored.name == wanted) {
            return Ok(found.clone());
        }
        let mut found: Vec<&Stored> = all
            .iter()
            .filter(|stored| stored.digest.begins_with(wanted))
            .collect();
        // The same bytes under two names are one policy.
        found.dedup_by_key(|stored| stored.digest);
        match found[..] {
            [one] => Ok(one.clone()),
            [] => Err(PolicyError::NotFound {
                wanted: wanted.to_owned(),
                available: all
                    .iter()
                    .map(|stored| stored.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
            _ => Err(PolicyError::Ambiguous {
                wanted: wanted.to_owned(),
                candidates: found
                    .iter()
                    .map(|stored| format!("{} ({})", stored.name, stored.digest.short()))
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// Saves a component in the folder under `name`, at once or not at all. One of the same name that was there is kept as
    /// `NAME.DIGEST`, and the fifth of those before it goes. The component is not checked; compile it first.
    ///
    /// # Errors
    ///
    /// [`PolicyError::BadName`], [`PolicyError::NoFolder`], or [`PolicyError::File`] with what could not be written.
    pub fn save(&self, bytes: &[u8], name: &str) -> Result<Stored, PolicyError> {
        static UNIQUE: AtomicU32 = AtomicU32::new(0);
        if !is_name(name) {
            return Err(PolicyError::BadName {
                name: name.to_owned(),
            });
        }
        let Some(folder) = &self.folder else {
            return Err(PolicyError::NoFolder {
                name: name.to_owned(),
            });
        };
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        let path = folder.join(format!("{name}.{EXTENSION}"));
        self.set_aside(name, Digest::of(bytes), &path)?;
        let number = UNIQUE.fetch_add(1, Ordering::Relaxed);
        let draft = folder.join(format!(".{name}.{}.{number}.part", std::process::id()));
        let written = write_through(&draft, bytes).and_then(|()| fs::rename(&draft, &path));
        if let Err(source) = written {
            // The draft may not exist; then there is nothing to remove.
            let _ = fs::remove_file(&draft);
            return Err(PolicyError::File {
                action: "write",
                path,
                source,
            });
        }
        Ok(Stored {
            name: name.to_owned(),
            digest: Digest::of(bytes),
            bytes: Cow::Owned(bytes.to_vec()),
            origin: Origin::File(path),
        })
    }

    /// Makes room for a new version of a policy in `path`: what is there gets its digest into its name.
    fn set_aside(&self, name: &str, new: Digest, path: &Path) -> Result<(), PolicyError> {
        let old = match fs::read(path) {
            Ok(bytes) => Digest::of(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed("read", path)(source)),
        };
        // A name without room for a digest has one version.
        let aside = format!("{name}.{}", old.short());
        if old == new || !is_name(&aside) {
            return Ok(());
        }
        let aside = path.with_file_name(format!("{aside}.{EXTENSION}"));
        fs::rename(path, &aside).map_err(failed("rename", path))?;
        let mut versions = Vec::new();
        for stored in self.load()? {
            if let (Some(path), true) = (stored.path(), stored.is_version_of(name)) {
                let metadata = fs::metadata(path).and_then(|metadata| metadata.modified());
                versions.push((metadata.map_err(failed("read", path))?, path.to_owned()));
            }
        }
        versions.sort();
        for (_, path) in versions.iter().rev().skip(VERSIONS) {
            fs::remove_file(path).map_err(failed("remove", path))?;
        }
        Ok(())
    }

    fn load(&self) -> Result<Vec<Stored>, PolicyError> {
        let mut all: Vec<Stored> = match &self.folder {
            Some(folder) => load_folder(folder)?,
            None => Vec::new(),
        };
        all.extend(EMBEDDED.iter().map(|&(name, bytes)| Stored {
            name: name.to_owned(),
            digest: Digest::of(bytes),
            bytes: Cow::Borrowed(bytes),
            origin: Origin::Builtin,
        }));
        // Stable: the folder's stay before built-in ones of the same name.
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}

impl Stored {
    /// Its line in the list.
    pub fn entry(&self) -> Entry {
        Entry {
            name: self.name.clone(),
            digest: self.digest,
            size: self.bytes.len(),
            origin: self.origin.clone(),
        }
    }

    fn path(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Builtin => None,
            Origin::File(path) => Some(path),
        }
    }

    /// Whether it is called as earlier versions of the policy `name` are.
    fn is_version_of(&self, name: &str) -> bool {
        let version = self.name.strip_prefix(name);
        version.and_then(|version| version.strip_prefix('.')) == Some(&self.digest.short())
    }

    /// Fails unless its bytes have the digest `expected`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::WrongDigest`].
    pub fn verify(&self, expected: Digest) -> Result<(), PolicyError> {
        if self.digest == expected {
            return Ok(());
        }
        Err(PolicyError::WrongDigest {
            name: self.name.clone(),
            expected,
            found: self.digest,
        })
    }
}

fn load_folder(folder: &Path) -> Result<Vec<Stored>, PolicyError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("read", folder)(source)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read", folder))?.path();
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if path
            .extension()
            .is_none_or(|extension| extension != EXTENSION)
            || !is_name(name)
            || !path.is_file()
        {
            continue;
        }
        let size = fs::metadata(&path).map_err(failed("read", &path))?.len();
        if size > MAX_SIZE {
            tracing::warn!(
                "{} has {size} bytes, too many for a policy, and is left out",
                path.display()
            );
            continue;
        }
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        all.push(Stored {
            name: name.to_owned(),
            digest: Digest::of(&bytes),
            bytes: Cow::Owned(bytes),
            origin: Origin::File(path),
        });
    }
    Ok(all)
}

/// Names are file names everywhere and need no quoting.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PolicyError + 'a {
    move |source| PolicyError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
