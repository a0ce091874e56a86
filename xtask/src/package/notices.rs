//! The licences of the crates that are linked into the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cargo::{self, Workspace};
use crate::paths;

/// The crate of the program.
const PROGRAM: &str = "halo";

/// How the files begin in which crates keep what must go along with them, in lower case.
const NAMES: [&str; 6] = [
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "unlicense",
];

/// What `cargo metadata` says: of all its fields, those of use here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    /// Nothing for what is in this repository.
    source: Option<String>,
    license: Option<String>,
    license_file: Option<PathBuf>,
    authors: Vec<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

/// Nothing for one that is linked; else `build` or `dev`.
#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// All crates that the program for `triple` contains, each with its licence and authors, and the texts that they come with.
pub(super) fn collect(triple: &str) -> Result<String> {
    let mut command = Workspace::Host.cargo("metadata");
    command.args(["--format-version", "1", "--locked", "--filter-platform"]);
    let metadata = cargo::output(command.arg(triple))?;
    let metadata = serde_json::from_str(&metadata).context("cargo metadata says something else")?;
    write(&linked(&metadata)?)
}

/// The crates that others have written and the program contains, by name and version.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p)).collect();
    let nodes: BTreeMap<_, _> = metadata.resolve.nodes.iter().map(|n| (&n.id, n)).collect();
    let program = metadata.packages.iter().find(|p| p.name == PROGRAM);
    let mut open = vec![&program.context("there is no crate of the program")?.id];
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        // What a procedural macro is made of runs in the compiler.
        if packages[id].is_macro() || !found.insert(id) {
            continue;
        }
        let dependencies = nodes[id].deps.iter();
        open.extend(
            dependencies
                .filter(|d| d.dep_kinds.iter().any(|kind| kind.kind.is_none()))
                .map(|d| &d.pkg),
        );
    }
    let found = found.into_iter().map(|id| packages[id]);
    let mut found: Vec<&Package> = found.filter(|p| p.source.is_some()).collect();
    found.sort_by_key(|package| (&package.name, &package.version));
    Ok(found)
}

/// The list, then the texts. Of texts that are the same there is one.
fn write(packages: &[&Package]) -> Result<String> {
    let mut list = String::new();
    let mut texts: Vec<String> = Vec::new();
    for package in packages {
        let mut numbers = BTreeSet::new();
        for text in package.texts()? {
            let number = texts.iter().position(|known| *known == text);
            numbers.insert(1 + number.unwrap_or(texts.len()));
            if number.is_none() {
                texts.push(text);
            }
        }
        let Package { name, version, .. } = package;
        let licence = package.license.as_deref();
        ensure!(
            licence.is_some() || !numbers.is_empty(),
            "{name} {version} does not say under which licence it is"
        );
        // Writing to a string cannot fail.
        let _ = write!(list, "{name} {version}: {}", licence.unwrap_or("see below"));
        if !package.authors.is_empty() {
            let _ = write!(list, "; {}", package.authors.join(", "));
        }
        let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
        if !numbers.is_empty() {
            let _ = write!(list, " [{}]", numbers.join(", "));
        }
        list.push('\n');
    }
    let rule = "-".repeat(78);
    let texts = texts.iter().enumerate();
    let texts = texts.map(|(index, text)| format!("\n{rule}\n[{}]\n\n{text}\n", index + 1));
    Ok(format!(
        "The program contains Rust's standard library (Apache-2.0 OR MIT; the Rust project's contributors) and these\n\
         crates, each with its licence, its authors, and in brackets the texts below that come with it.\n\n{list}{}",
        texts.collect::<String>()
    ))
}

impl Package {
    fn is_macro(&self) -> bool {
        let mut kinds = self.targets.iter().flat_map(|target| &target.kind);
        kinds.any(|kind| kind == "proc-macro")
    }

    /// What must go along with it, in the order of the files' paths.
    fn texts(&self) -> Result<Vec<String>> {
        let folder = self.manifest_path.parent();
        let folder = folder.context("a manifest is in a folder")?;
        let mut files = BTreeSet::new();
        find(folder, &mut files)?;
        files.extend(self.license_file.iter().map(|file| folder.join(file)));
        let read = |file: &PathBuf| {
            let bytes =
                fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            Ok(text.trim_end().to_owned())
        };
        files.iter().map(read).collect()
    }
}

/// Finds files of such names in a folder and below: some crates contain the works of others.
fn find(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for path in paths::files(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        if path.is_dir() {
            find(&path, files)?;
        } else if NAMES.iter().any(|begin| name.starts_with(begin)) && !name.ends_with(".rs") {
            files.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata of a program with these dependencies: who, on what, of which kind.
    fn metadata(dependencies: &[(&str, &str, Option<&str>)], folder: &Path) -> Metadata {
        let names = ["halo", "linked", "below", "macro", "builds", "tests"];
        let package = |name: &str| {
            let kind = if name == "macro" { "proc-macro" } else { "lib" };
            serde_json::json!({
                "id": name, "name": name, "version": "1.0.0", "license": "MIT", "license_file": null,
                "source": (name != "halo").then_some("registry"), "authors": ["A <a@b>"],
                "manifest_path": folder.join(name).join("Cargo.toml"), "targets": [{ "kind": [kind] }],
            })
        };
        let node = |name: &str| {
            let own = dependencies.iter().filter(|(who, ..)| *who == name);
            let deps = own.map(
                |(_, on, kind)| serde_json::json!({ "pkg": on, "dep_kinds": [{ "kind": kind }] }),
            );
            serde_json::json!({ "id": name, "deps": deps.collect::<Vec<_>>() })
        };
        let metadata = serde_json::json!({
            "packages": names.map(package), "resolve": { "nodes": names.map(node) },
        });
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn what_is_linked_is_listed_with_its_texts() {
        let folder = tempfile::tempdir().unwrap();
        let write_file = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write_file("linked/LICENSE-MIT", "Take it.\r\n");
        write_file("linked/src/license.rs", "fn check() {}");
        write_file("below/COPYING", "Take it.\n\n");
        write_file("below/vendor/Notice.txt", "It is another's.");
        let dependencies = [
            ("halo", "linked", None),
            ("halo", "macro", None),
            ("halo", "builds", Some("build")),
            ("halo", "tests", Some("dev")),
            ("linked", "below", None),
            ("macro", "tests", None),
        ];
        let metadata = metadata(&dependencies, folder.path());
        let notices = write(&linked(&metadata).unwrap()).unwrap();
        let (_, notices) = notices.split_once("\n\n").unwrap();
        let rule = "-".repeat(78);
        assert_eq!(
            notices,
            format!(
                "below 1.0.0: MIT; A <a@b> [1, 2]\nlinked 1.0.0: MIT; A <a@b> [1]\n\
                 \n{rule}\n[1]\n\nTake it.\n\n{rule}\n[2]\n\nIt is another's.\n"
            )
        );
    }

    #[test]
    fn the_programs_crates_are_all_under_a_licence() {
        for triple in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
            let notices = collect(triple).unwrap();
            for name in [
                "\nwasmtime 48",
                "\nzenoh 1",
                "\nring 0",
                "Permission is hereby granted",
            ] {
                assert!(notices.contains(name), "{triple}: {name:?}");
            }
            // Of other systems, of the tests alone, and of the compiler.
            for name in ["\nwindows-sys ", "\ninsta ", "\nserde_derive "] {
                assert!(!notices.contains(name), "{triple}: {name:?}");
            }
            assert_eq!(notices, collect(triple).unwrap());
        }
    }
}
