//! A standard library for another target than this machine, also where the toolchain has none and rustup cannot bring it.
//!
//! In this order: the toolchain's own; one that was built here before; one built now from the toolchain's `rust-src`
//! component; one built now from Debian's `rust-src` package of exactly this compiler's version. The package is only source
//! and is unpacked in a temporary folder: the toolchain is not changed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cargo::run;
use crate::compiler::{self, Compiler};
use crate::debian::Package;
use crate::paths::{self, files};
use crate::say;

/// Debian's suites that may have the compiler's version, the likeliest first.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];

/// The file beside a sysroot that says what it was built from.
const ORIGIN: &str = "origin";

/// What a standard library is built for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// Rust's name of it.
    pub(crate) triple: &'static str,
    /// In the names of our folders.
    name: &'static str,
    /// What there is of the standard library.
    crates: &'static str,
    /// Its features, where they are not the usual ones.
    features: Option<&'static str>,
    /// What a panic does.
    panic: &'static str,
    /// What to do where it cannot be built.
    otherwise: &'static str,
}

/// What policies are compiled for.
pub(crate) const WASM: Target = Target {
    triple: "wasm32-unknown-unknown",
    name: "wasm",
    crates: "core,alloc,std,panic_abort",
    features: Some("compiler-builtins-mem"),
    panic: "abort",
    otherwise: "Policies that come with HALO are in plugins/components and need none",
};

/// What a Raspberry Pi runs.
pub(crate) const AARCH64: Target = Target {
    triple: "aarch64-unknown-linux-gnu",
    name: "aarch64",
    crates: "std,panic_unwind,test",
    features: None,
    panic: "unwind",
    otherwise: "On an ARM machine itself, `cargo xtask build` needs none",
};

impl Target {
    /// The folder in which the standard library is built: always the same, since Cargo mixes its path into the names of the
    /// library's symbols, and so into the order of everything that is linked with it.
    fn workplace(&self) -> PathBuf {
        format!("/tmp/halo-{}-sysroot", self.name).into()
    }

    fn libraries(&self, sysroot: &Path) -> PathBuf {
        sysroot.join("lib/rustlib").join(self.triple).join("lib")
    }
}

/// A standard library.
pub(crate) struct Std {
    /// What it was built from, in words. Different origins give different bits.
    pub(crate) origin: String,
    /// The folder for rustc's `--sysroot`; `None` for the toolchain's own.
    pub(crate) sysroot: Option<PathBuf>,
    /// Whether it was built just now. What was compiled with an earlier one in its place is out of date then, and Cargo
    /// does not notice.
    pub(crate) new: bool,
}

impl Std {
    /// The compiler's flags to use it.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        self.sysroot
            .as_ref()
            .map_or_else(Vec::new, |folder| vec!["--sysroot".into(), folder.into()])
    }
}

/// The standard library for `target`, built if need be (about a minute).
pub(crate) fn provide(compiler: &Compiler, target: &Target) -> Result<Std> {
    let installed = compiler::ask(&["--print", "target-libdir", "--target", target.triple])?;
    if has_std(Path::new(&installed)) {
        return Ok(Std {
            origin: "the toolchain".into(),
            sysroot: None,
            new: false,
        });
    }
    let commit: String = compiler.commit.chars().take(9).collect();
    let sysroot = paths::data()?
        .join(format!("{}-sysroot", target.name))
        .join(format!("{}-{commit}", compiler.release));
    let new = !has_std(&target.libraries(&sysroot));
    if new {
        build(compiler, target, &sysroot)?;
    }
    let origin = fs::read_to_string(sysroot.join(ORIGIN))
        .with_context(|| format!("{} is incomplete: remove it", sysroot.display()))?;
    Ok(Std {
        origin,
        sysroot: Some(sysroot),
        new,
    })
}

/// Builds the standard library and moves it to `sysroot` when it is complete.
fn build(compiler: &Compiler, target: &Target, sysroot: &Path) -> Result<()> {
    let workplace = Workplace::enter(target.workplace())?;
    if has_std(&target.libraries(sysroot)) {
        // Another build was under way, and this one waited for it.
        return Ok(());
    }
    let folder = &workplace.folder;
    let workspace = folder.join("workspace");
    fs::create_dir_all(workspace.join("probe"))?;
    let library = workspace.join("library");
    let component =
        Path::new(&compiler::ask(&["--print", "sysroot"])?).join("lib/rustlib/src/rust/library");
    let origin = if component.join("Cargo.lock").is_file() {
        copy(&component, &library)?;
        "the rust-src component".to_owned()
    } else {
        debian_source(compiler, folder, &library).with_context(|| {
            let Target {
                triple, otherwise, ..
            } = target;
            format!(
                "the toolchain has no standard library for {triple}, and none can be built here. Bring one with `rustup \
                 target add {triple}`, or its source with `rustup component add rust-src`, or give `apt-get` a Debian \
                 mirror whose {} has rust-src {}. {otherwise}",
                SUITES.join(", "),
                compiler.release
            )
        })?
    };

    say::step(
        "Building",
        format_args!(
            "the standard library for {} from {origin} (once)",
            target.triple
        ),
    );
    fs::write(workspace.join("probe/lib.rs"), "#![no_std]\n")?;
    fs::write(
        workspace.join("Cargo.toml"),
        format!(
            "[package]\nname = \"sysroot_probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [lib]\npath = \"probe/lib.rs\"\n\
             [profile.release]\nopt-level = 3\ndebug = false\npanic = \"{}\"\n\
             [workspace]\n",
            target.panic
        ),
    )?;
    let output = folder.join("target");
    let flags = [
        OsString::from("-Cembed-bitcode=yes"),
        compiler::remap(&library, &format!("/rustc/{}/library", compiler.commit)),
        compiler::remap(&compiler::registry()?, "/cargo"),
    ];
    let mut cargo = compiler::cargo("build", target.triple, &flags);
    cargo
        .current_dir(&workspace)
        .arg("--quiet")
        .arg(format!("-Zbuild-std={}", target.crates))
        // A stable compiler builds its own standard library only when it is told that it may.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &library)
        .env("CARGO_TARGET_DIR", &output);
    if let Some(features) = target.features {
        cargo.arg(format!("-Zbuild-std-features={features}"));
    }
    run(&mut cargo)?;

    let draft = folder.join("sysroot");
    let libraries = target.libraries(&draft);
    fs::create_dir_all(&libraries)?;
    let built = output.join(target.triple).join("release/deps");
    for path in files(&built)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".rlib") && !name.starts_with("libsysroot_probe") {
            fs::copy(&path, libraries.join(name.as_ref()))?;
        }
    }
    ensure!(
        has_std(&libraries),
        "cargo built no standard library in {}",
        built.display()
    );
    fs::write(draft.join(ORIGIN), origin)?;
    install(target, &draft, sysroot)
}

/// Moves a complete sysroot to its place, across file systems if need be.
fn install(target: &Target, draft: &Path, sysroot: &Path) -> Result<()> {
    let parent = sysroot.parent().context("the data folder has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let beside = tempfile::Builder::new()
        .prefix(".part.")
        .tempdir_in(parent)?;
    let complete = beside.path().join("sysroot");
    copy(draft, &complete)?;
    match fs::rename(&complete, sysroot) {
        Ok(()) => Ok(()),
        // Another build was quicker, and what it built is the same.
        Err(_) if has_std(&target.libraries(sysroot)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", sysroot.display())),
    }
}

/// The folder in which a standard library is built. One build at a time has it.
struct Workplace {
    folder: PathBuf,
    /// Unlocked when it is closed.
    _lock: fs::File,
}

impl Workplace {
    fn enter(folder: PathBuf) -> Result<Self> {
        let path = folder.with_extension("lock");
        let lock = fs::File::options().create(true).append(true).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        // What a build left behind that was killed.
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // The next build removes it if this one cannot.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Brings the source of the standard library from Debian to `library`; returns what it is.
fn debian_source(compiler: &Compiler, folder: &Path, library: &Path) -> Result<String> {
    let package = Package::bring(folder, &SUITES, "rust-src", |version| {
        is_of(version, &compiler.release)
    })?
    .with_context(|| {
        format!(
            "Debian's {} have no rust-src {}",
            SUITES.join(", "),
            compiler.release
        )
    })?;
    package.unpack("./usr/src/rustc-*/library*", folder)?;
    let source = files(&folder.join("usr/src"))?
        .into_iter()
        .map(|path| path.join("library"))
        .find(|path| path.join("Cargo.lock").is_file())
        .context("the package has no usr/src/*/library")?;
    fs::rename(&source, library)?;
    Ok(format!("Debian's rust-src {}", package.version))
}

/// Whether a version of Debian's is that of the compiler `release`.
fn is_of(version: &str, release: &str) -> bool {
    version
        .strip_prefix(release)
        .is_some_and(|rest| rest.starts_with(['+', '-']))
}

fn has_std(libraries: &Path) -> bool {
    files(libraries).is_ok_and(|files| {
        files.iter().any(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        })
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for path in files(from)? {
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_compilers_version_will_do() {
        assert!(is_of("1.95.0+dfsg1-2", "1.95.0"));
        assert!(is_of("1.95.0-1", "1.95.0"));
        assert!(!is_of("1.95.1+dfsg1-1", "1.95.0"));
        assert!(!is_of("1.95.0+dfsg1-2", "1.95"));
        assert!(!is_of("1.95.01-1", "1.95.0"));
    }
}
