//! `cargo xtask policies`: the guest crates of `plugins/`, compiled to WebAssembly components in `plugins/components`; or
//! crates elsewhere, compiled to components beside their manifests.
//!
//! The same source, toolchain and standard library give the same bytes in any folder on any machine, so a check can tell
//! whether the committed components are what the source says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use wit_component::ComponentEncoder;

use crate::compiler::{self, Compiler};
use crate::sysroot::{self, Std, WASM};
use crate::{cargo, paths, say};

const SUMS: &str = "SHA256SUMS";
/// What the components were built with, since other toolchains give other bytes.
const BUILT_WITH: &str = "BUILT_WITH";

/// What came of comparing the committed policies with their source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checked {
    /// They are what it compiles to.
    Same,
    /// It compiles to other bytes, as is to be expected: these words say with which other tools.
    OtherTools(String),
}

/// Compile policies to WebAssembly components: those of `plugins`, to the ones that are committed, or crates of your own.
///
/// Needs Rust's wasm32-unknown-unknown target, or a way to build its standard library; says so where neither is to be had.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only compare: compile them elsewhere, and fail if the committed ones differ.
    #[arg(long, conflicts_with = "crates")]
    check: bool,

    /// Folders of crates to compile instead of `plugins`, each to a component of its name in its folder.
    #[arg(value_name = "FOLDER")]
    crates: Vec<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let compiler = Compiler::find()?;
    let std = sysroot::provide(&compiler, &WASM)?;
    for folder in &args.crates {
        let component = build_crate(&std, folder)?;
        say::step("Built", component.display());
    }
    if !args.crates.is_empty() {
        return Ok(());
    }
    if args.check {
        match check(&compiler, &std)? {
            Checked::Same => say::step(
                "Checked",
                "the policies are byte for byte what is committed",
            ),
            Checked::OtherTools(words) => say::warning("Not compared", words),
        }
        return Ok(());
    }
    let folder = components_folder();
    let components = build(&std)?;
    write(&folder, &components, &built_with(&compiler, &std))?;
    let total: usize = components.values().map(Vec::len).sum();
    say::step(
        "Built",
        format_args!(
            "{} policies, {total} bytes, in {}",
            components.len(),
            folder.display()
        ),
    );
    Ok(())
}

/// Builds all policies and compares them with the committed ones.
pub(crate) fn check(compiler: &Compiler, std: &Std) -> Result<Checked> {
    let folder = components_folder();
    let components = build(std)?;
    let differences = compare(&folder, &components);
    let theirs = fs::read_to_string(folder.join(BUILT_WITH)).unwrap_or_default();
    let ours = built_with(compiler, std);
    match differences {
        Ok(()) => Ok(Checked::Same),
        Err(_) if theirs != ours => Ok(Checked::OtherTools(format!(
            "the policies compile, to other bytes than those committed, which were built with other tools: {} rather than {}",
            one_line(&theirs),
            one_line(&ours)
        ))),
        Err(differences) => Err(differences),
    }
}

fn components_folder() -> PathBuf {
    paths::root().join("plugins/components")
}

/// The content of [`BUILT_WITH`] for what is built now.
fn built_with(compiler: &Compiler, std: &Std) -> String {
    format!(
        "rustc {} ({})\nstandard library from {}\n",
        compiler.release, compiler.commit, std.origin
    )
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', ", ")
}

/// Components by their path in the folder of components.
type Components = BTreeMap<String, Vec<u8>>;

/// Compiles all members of the guests' workspace.
fn build(std: &Std) -> Result<Components> {
    let root = paths::root();
    let workspace = root.join("plugins");
    let target = match std::env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => std::env::current_dir()?.join(folder).join("plugins"),
        None => workspace.join("target"),
    };
    let compiled = target.join(WASM.triple);
    if std.new && compiled.exists() {
        fs::remove_dir_all(&compiled)
            .with_context(|| format!("cannot remove {}", compiled.display()))?;
    }
    let remaps = [
        compiler::remap(root, "/halo"),
        compiler::remap(&compiler::registry()?, "/cargo"),
    ];
    let mut command = cargo_build(std, &remaps);
    command
        .current_dir(&workspace)
        .args(["--locked", "--workspace"])
        .env("CARGO_TARGET_DIR", &target);
    cargo::run(&mut command).context("the policies do not compile")?;

    let mut components = Components::new();
    for member in members(&workspace)? {
        let name = Path::new(&member)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let component = component(&compiled, &name)?;
        components.insert(format!("{member}.wasm"), component);
    }
    Ok(components)
}

/// Compiles a crate that is no member of the workspace to a component in its folder. Gives its path.
pub(crate) fn build_crate(std: &Std, folder: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Manifest {
        package: Package,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
    }
    let Manifest { package } = read_manifest(&folder.join("Cargo.toml"))?;
    let target = folder
        .canonicalize()
        .with_context(|| format!("cannot find {}", folder.display()))?
        .join("target");
    let mut command = cargo_build(std, &[]);
    command.current_dir(folder).env("CARGO_TARGET_DIR", &target);
    cargo::run(&mut command).with_context(|| format!("{} does not compile", folder.display()))?;
    let path = folder.join(format!("{}.wasm", package.name));
    put(&path, &component(&target.join(WASM.triple), &package.name)?)?;
    Ok(path)
}

/// `cargo build` with what all policies are built with.
fn cargo_build(std: &Std, more: &[OsString]) -> std::process::Command {
    let mut flags = vec![OsString::from("-Ctarget-feature=+simd128")];
    flags.extend_from_slice(more);
    flags.extend(std.flags());
    let mut command = compiler::cargo("build", WASM.triple, &flags);
    command.arg("--quiet");
    command
}

/// The component of a crate that was compiled to a module.
fn component(compiled: &Path, name: &str) -> Result<Vec<u8>> {
    let module = compiled
        .join("release")
        .join(format!("{}.wasm", name.replace('-', "_")));
    let core = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    componentise(&core).with_context(|| format!("{name} does not make a component"))
}

/// The workspace's members, as paths from it.
fn members(workspace: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Manifest {
        workspace: Members,
    }
    #[derive(Deserialize)]
    struct Members {
        members: Vec<String>,
    }
    let manifest: Manifest = read_manifest(&workspace.join("Cargo.toml"))?;
    Ok(manifest.workspace.members)
}

fn read_manifest<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// Makes a component of a core module that describes its world in a section of its own, as `wit-bindgen` makes them.
fn componentise(core: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(core)?
        .encode()
}

fn write(folder: &Path, components: &Components, built_with: &str) -> Result<()> {
    for (path, bytes) in components {
        put(&folder.join(path), bytes)?;
    }
    put(&folder.join(SUMS), sums(components).as_bytes())?;
    put(&folder.join(BUILT_WITH), built_with.as_bytes())?;
    for stray in strays(folder, components)? {
        say::warning(
            "Stray",
            format_args!(
                "{} belongs to no policy of plugins/Cargo.toml",
                stray.display()
            ),
        );
    }
    Ok(())
}

/// Writes a file whose contents are not these already, so that nothing that includes it is compiled again for nothing.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// The digests in the format of `sha256sum`.
fn sums(components: &Components) -> String {
    components
        .iter()
        .fold(String::new(), |mut text, (path, bytes)| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}  {path}", digest(bytes));
            text
        })
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Fails with everything that differs between the committed components, their digests and those just built.
fn compare(committed: &Path, components: &Components) -> Result<()> {
    let path = committed.join(SUMS);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: run `cargo xtask policies`", path.display()))?;
    let recorded: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(digest, path)| (path, digest))
        .collect();
    let mut differences = Vec::new();
    for (path, bytes) in components {
        let built = digest(bytes);
        match recorded.get(path.as_str()) {
            None => differences.push(format!("{path} is not in {SUMS}")),
            Some(recorded) if *recorded != built => {
                differences.push(format!("{path} is built as {built}, {SUMS} has {recorded}"));
            }
            Some(recorded) => match fs::read(committed.join(path)) {
                Ok(bytes) if digest(&bytes) == *recorded => {}
                Ok(bytes) => {
                    differences.push(format!(
                        "{path} is committed as {}, {SUMS} has {recorded}",
                        digest(&bytes)
                    ));
                }
                Err(error) => differences.push(format!("{path} cannot be read: {error}")),
            },
        }
    }
    let unknown = recorded
        .keys()
        .filter(|path| !components.contains_key(**path));
    differences.extend(
        unknown.map(|path| format!("{path} is in {SUMS} and no policy of plugins/Cargo.toml")),
    );
    differences.extend(
        strays(committed, components)?
            .iter()
            .map(|stray| format!("{} belongs to no policy", stray.display())),
    );
    ensure!(
        differences.is_empty(),
        "plugins/components is not what plugins/ compiles to; run `cargo xtask policies` and commit the result:\n  {}",
        differences.join("\n  ")
    );
    Ok(())
}

/// Components that no member of the workspace makes.
fn strays(folder: &Path, components: &Components) -> Result<Vec<PathBuf>> {
    let mut strays = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in
            fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let is_component = path
                .extension()
                .is_some_and(|extension| extension == "wasm");
            let known = components
                .keys()
                .any(|component| folder.join(component) == path);
            if is_component && !known {
                strays.push(path);
            }
        }
    }
    strays.sort();
    Ok(strays)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Components) {
        let folder = tempfile::tempdir().unwrap();
        let components = Components::from([
            ("a.wasm".into(), b"abc".to_vec()),
            ("testing/b.wasm".into(), b"b".to_vec()),
        ]);
        write(folder.path(), &components, "tools").unwrap();
        (folder, components)
    }

    #[test]
    fn what_was_written_compares_equal() {
        let (folder, components) = folder();
        compare(folder.path(), &components).unwrap();
        let sums = fs::read_to_string(folder.path().join(SUMS)).unwrap();
        assert!(
            sums.starts_with(
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.wasm\n"
            ),
            "{sums}"
        );
    }

    #[test]
    fn every_difference_is_named() {
        let (folder, mut components) = folder();
        components.insert("a.wasm".into(), b"abd".to_vec());
        fs::write(folder.path().join("testing/b.wasm"), b"changed").unwrap();
        fs::write(folder.path().join("c.wasm"), b"c").unwrap();
        let words = compare(folder.path(), &components).unwrap_err().to_string();
        for part in [
            "a.wasm is built as",
            "testing/b.wasm is committed as",
            "c.wasm belongs to no policy",
        ] {
            assert!(words.contains(part), "{words}");
        }
        components.remove("a.wasm");
        let words = compare(folder.path(), &components).unwrap_err().to_string();
        assert!(
            words.contains("a.wasm is in SHA256SUMS and no policy"),
            "{words}"
        );
    }

    #[test]
    fn what_is_no_module_makes_no_component() {
        assert!(componentise(b"not wasm").is_err());
    }

    #[test]
    fn all_members_are_found() {
        let members = members(&paths::root().join("plugins")).unwrap();
        assert!(
            members.contains(&"testing/scheduler-faulty".to_owned()),
            "{members:?}"
        );
    }
}
