//! A standard library for `wasm32-unknown-unknown`, also where the toolchain has none and rustup cannot bring it.
//!
//! In this order: the toolchain's own; one that was built here before; one built now from the toolchain's `rust-src`
//! component; one built now from Debian's `rust-src` package of exactly this compiler's version. The package is only source
//! and is unpacked in a temporary folder: neither the toolchain nor the installed packages nor apt's lists are changed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{paths, say};

/// What policies are compiled for.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's suites that may have the compiler's version, the likeliest first.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];

/// Where the standard library is built.
const WORKPLACE: &str = "/tmp/halo-wasm-sysroot";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The file beside a sysroot that says what it was built from.
const ORIGIN: &str = "origin";

/// A standard library for [`TARGET`].
pub(crate) struct Std {
    /// What it was built from, in words. Different origins give different bits.
    pub(crate) origin: String,
    /// The folder for rustc's `--sysroot`; `None` for the toolchain's own.
    pub(crate) sysroot: Option<PathBuf>,
    /// Whether it was built just now. What was compiled with an earlier one in its place is out of date then, and Cargo
    /// does not notice.
    pub(crate) new: bool,
}

/// The compiler in use.
pub(crate) struct Compiler {
    /// Its version, such as `1.95.0`.
    pub(crate) release: String,
    /// The commit it was built from.
    pub(crate) commit: String,
}

impl Compiler {
    /// Asks `rustc` for its version.
    pub(crate) fn find() -> Result<Self> {
        let words = output(rustc().arg("-vV"))?;
        let line = |key: &str| {
            let value = words.lines().find_map(|line| line.strip_prefix(key));
            value
                .map(str::to_owned)
                .with_context(|| format!("`rustc -vV` says nothing about {key}"))
        };
        Ok(Self {
            release: line("release: ")?,
            commit: line("commit-hash: ")?,
        })
    }
}

/// The standard library to compile policies with, built if need be (about a minute).
pub(crate) fn provide(compiler: &Compiler) -> Result<Std> {
    let installed = output(rustc().args(["--print", "target-libdir", "--target", TARGET]))?;
    if has_std(Path::new(installed.trim())) {
        return Ok(Std {
            origin: "the toolchain".into(),
            sysroot: None,
            new: false,
        });
    }
    let commit: String = compiler.commit.chars().take(9).collect();
    let sysroot = paths::data()?
        .join("wasm-sysroot")
        .join(format!("{}-{commit}", compiler.release));
    let new = !has_std(&libraries(&sysroot));
    if new {
        build(compiler, &sysroot)?;
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
fn build(compiler: &Compiler, sysroot: &Path) -> Result<()> {
    let workplace = Workplace::enter()?;
    if has_std(&libraries(sysroot)) {
        // Another build was under way, and this one waited for it.
        return Ok(());
    }
    let folder = workplace.folder;
    let workspace = folder.join("workspace");
    fs::create_dir_all(workspace.join("probe"))?;
    let library = workspace.join("library");
    let component = Path::new(output(rustc().args(["--print", "sysroot"]))?.trim())
        .join("lib/rustlib/src/rust/library");
    let origin = if component.join("Cargo.lock").is_file() {
        copy(&component, &library)?;
        "the rust-src component".to_owned()
    } else {
        debian_source(compiler, folder, &library).with_context(|| {
            format!(
                "the toolchain has no standard library for {TARGET}, and none can be built here. Bring one with `rustup \
                 target add {TARGET}`, or its source with `rustup component add rust-src`, or give `apt-get` a Debian \
                 mirror whose {} has rust-src {}. Policies that come with HALO are in plugins/components and need none",
                SUITES.join(", "),
                compiler.release
            )
        })?
    };

    say::step(
        "Building",
        format_args!("the standard library for {TARGET} from {origin} (once)"),
    );
    fs::write(workspace.join("probe/lib.rs"), "#![no_std]\n")?;
    fs::write(
        workspace.join("Cargo.toml"),
        "[package]\nname = \"sysroot_probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [lib]\npath = \"probe/lib.rs\"\n\
         [profile.release]\nopt-level = 3\ndebug = false\npanic = \"abort\"\n\
         [workspace]\n",
    )?;
    let target = folder.join("target");
    let flags = [
        OsString::from("-Cembed-bitcode=yes"),
        remap(&library, &format!("/rustc/{}/library", compiler.commit)),
        remap(&registry()?, "/cargo"),
    ];
    let mut cargo = cargo_build(&flags);
    cargo
        .current_dir(&workspace)
        .args([
            "-Zbuild-std=core,alloc,std,panic_abort",
            "-Zbuild-std-features=compiler-builtins-mem",
        ])
        // A stable compiler builds its own standard library only when it is told that it may.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &library)
        .env("CARGO_TARGET_DIR", &target);
    run(&mut cargo)?;

    let draft = folder.join("sysroot");
    fs::create_dir_all(libraries(&draft))?;
    let built = target.join(TARGET).join("release/deps");
    for entry in fs::read_dir(&built).with_context(|| format!("cannot read {}", built.display()))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.ends_with(".rlib") && !name.starts_with("libsysroot_probe") {
            fs::copy(&path, libraries(&draft).join(name))?;
        }
    }
    ensure!(
        has_std(&libraries(&draft)),
        "cargo built no standard library in {}",
        built.display()
    );
    fs::write(draft.join(ORIGIN), origin)?;
    install(&draft, sysroot)
}

/// Moves a complete sysroot to its place, across file systems if need be.
fn install(draft: &Path, sysroot: &Path) -> Result<()> {
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
        Err(_) if has_std(&libraries(sysroot)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", sysroot.display())),
    }
}

/// The folder in which the standard library is built: always the same, since Cargo mixes its path into the names of the
/// library's symbols, and so into the order of everything that is linked with it. One build at a time has it.
struct Workplace {
    folder: &'static Path,
    /// Unlocked when it is closed.
    _lock: fs::File,
}

impl Workplace {
    fn enter() -> Result<Self> {
        let folder = Path::new(WORKPLACE);
        let path = folder.with_extension("lock");
        let lock = fs::File::options().create(true).append(true).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        // What a build left behind that was killed.
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // The next build removes it if this one cannot.
        let _ = fs::remove_dir_all(self.folder);
    }
}

/// Brings the source of the standard library from Debian to `library`; returns what it is.
fn debian_source(compiler: &Compiler, folder: &Path, library: &Path) -> Result<String> {
    let targets = [
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Identifier: Packages",
    ];
    let mirrors = output(Command::new("apt-get").args(targets))?;
    let mirror = mirrors
        .lines()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .context("apt has no Debian mirror")?;
    for suite in SUITES {
        let apt = Apt::new(folder, mirror, suite)?;
        let Some(version) = apt.version_of(&compiler.release) else {
            continue;
        };
        say::step(
            "Downloading",
            format_args!("rust-src {version} from {mirror} {suite}"),
        );
        run(apt
            .command("apt-get")
            .arg("--quiet")
            .args(["download", &format!("rust-src={version}")]))?;
        let package = files(&apt.folder)?
            .into_iter()
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded no package")?;
        unpack(&package, folder)?;
        let source = files(&folder.join("usr/src"))?
            .into_iter()
            .map(|path| path.join("library"))
            .find(|path| path.join("Cargo.lock").is_file())
            .context("the package has no usr/src/*/library")?;
        fs::rename(&source, library)?;
        return Ok(format!("Debian's rust-src {version}"));
    }
    bail!(
        "{mirror} has no rust-src {} in {}",
        compiler.release,
        SUITES.join(", ")
    )
}

/// apt, with one suite of one mirror and all of its files in a folder of ours.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(parent: &Path, mirror: &str, suite: &str) -> Result<Self> {
        let folder = parent.join(suite);
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        let list = folder.join("sources.list");
        fs::write(
            &list,
            format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"),
        )?;
        let options = vec![
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".into(),
            format!("Dir::State::lists={}", folder.join("lists").display()),
            format!("Dir::Cache={}", folder.join("cache").display()),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::Languages=none".into(),
            "APT::Sandbox::User=root".into(),
        ];
        Ok(Self { folder, options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// The package's version that belongs to the compiler `release`, if the suite has it.
    fn version_of(&self, release: &str) -> Option<String> {
        // A suite that the mirror does not have is no error: the next one may have it.
        run(self
            .command("apt-get")
            .args(["--quiet", "--quiet", "update"]))
        .ok()?;
        let lines = output(self.command("apt-cache").args(["madison", "rust-src"])).ok()?;
        madison(&lines, release)
    }
}

/// The first version of `release` in what `apt-cache madison` says: `package | version | source`.
fn madison(lines: &str, release: &str) -> Option<String> {
    lines
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| {
            version
                .strip_prefix(release)
                .is_some_and(|rest| rest.starts_with(['+', '-']))
        })
        .map(str::to_owned)
}

/// Takes the standard library's source out of a package.
fn unpack(package: &Path, folder: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run `dpkg-deb`")?;
    let stream = archive
        .stdout
        .take()
        .context("`dpkg-deb` gives no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--wildcards", "--directory"])
        .arg(folder)
        .arg("./usr/src/rustc-*/library*");
    let status = tar.stdin(stream).status().context("cannot run `tar`")?;
    let archive = archive.wait()?;
    ensure!(
        status.success() && archive.success(),
        "cannot unpack {}",
        package.display()
    );
    Ok(())
}

/// `cargo build` for [`TARGET`] in the release profile with these flags for the compiler, and nothing of the caller's
/// environment that would change the result.
pub(crate) fn cargo_build(flags: &[OsString]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "--target", TARGET]);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let changes_code = ["CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_WASM32_"];
        // Cargo sets those of the package that runs, which is this tool's.
        let of_package = name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR";
        if of_package || changes_code.iter().any(|prefix| name.starts_with(prefix)) {
            cargo.env_remove(name.as_ref());
        }
    }
    cargo
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    // Incremental compilation would divide the code in another way.
    cargo.env("CARGO_INCREMENTAL", "0");
    // Divided by a character that paths do not have.
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        flags.join(&OsString::from("\x1f")),
    );
    cargo
}

/// The compiler's flag that writes `name` for the folder `path`. Cargo leaves it out of the names it makes up for packages.
pub(crate) fn remap(path: &Path, name: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(path);
    flag.push("=");
    flag.push(name);
    flag
}

/// Where Cargo unpacks the packages of registries.
pub(crate) fn registry() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = set("CARGO_HOME").or_else(|| Some(set("HOME")?.join(".cargo")));
    Ok(home
        .context("neither CARGO_HOME nor HOME is set")?
        .join("registry/src"))
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

fn libraries(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib").join(TARGET).join("lib")
}

fn has_std(libraries: &Path) -> bool {
    files(libraries).is_ok_and(|files| {
        files.iter().any(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libstd-") && name.ends_with(".rlib")
        })
    })
}

/// What lies in a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
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

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| cannot_run(command))?;
    ensure!(
        status.success(),
        "`{}` failed ({status})",
        command.get_program().display()
    );
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_run(command))?;
    ensure!(
        output.status.success(),
        "`{}` failed ({})",
        command.get_program().display(),
        output.status
    );
    String::from_utf8(output.stdout).context("its output is not text")
}

fn cannot_run(command: &Command) -> String {
    format!("cannot run `{}`", command.get_program().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_compilers_version_will_do() {
        let lines = "  rust-src | 1.95.1+dfsg1-1 | http://mirror/debian sid/main amd64 Packages\n  \
                     rust-src | 1.95.0+dfsg1-2 | http://mirror/debian sid/main amd64 Packages\n";
        assert_eq!(madison(lines, "1.95.0").as_deref(), Some("1.95.0+dfsg1-2"));
        assert_eq!(madison(lines, "1.95.1").as_deref(), Some("1.95.1+dfsg1-1"));
        assert_eq!(madison(lines, "1.95"), None);
        assert_eq!(madison("", "1.95.0"), None);
    }
}
