//! `cargo xtask package`: packages for Debian and Raspberry Pi OS.

mod notices;
mod tree;
mod trial;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::cross::Cross;
use crate::package::tree::Tree;
use crate::{cargo, glibc, onnxruntime, paths, say, setup};

/// Make packages for Debian and Raspberry Pi OS: halo_VERSION_ARCHITECTURE.deb.
///
/// Each holds the program with its policies, the small model, ONNX Runtime, a configuration file, a systemd service, manual
/// pages and completions. The same source and tools give the same bytes. Needs dpkg-deb; for ARM on another machine, what
/// `cargo xtask cross aarch64` needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For which architectures [default: all that can be built here]
    #[arg(value_enum, value_name = "ARCHITECTURE")]
    architectures: Vec<Architecture>,

    /// Put the packages into this folder.
    #[arg(long, value_name = "FOLDER", default_value = "target/package")]
    to: PathBuf,

    /// Then install this machine's package in a new Debian 12 in a folder, start the node, ask `halo doctor`, remove and purge it.
    /// Needs root, debootstrap and a network.
    #[arg(long)]
    trial: bool,
}

/// An architecture, as Debian calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Architecture {
    Amd64,
    Arm64,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let own = Architecture::own()?;
    let architectures = match args.architectures {
        chosen if !chosen.is_empty() => chosen,
        _ if own == Architecture::Amd64 => vec![Architecture::Amd64, Architecture::Arm64],
        _ => vec![own],
    };
    // Its words are in every package, whatever the architecture.
    let native = cargo::build("halo")?;
    let folder = paths::root().join(args.to);
    for architecture in architectures {
        let halo = if architecture == own {
            native.clone()
        } else {
            ensure!(
                architecture == Architecture::Arm64,
                "a package for amd64 is made on such a machine"
            );
            Cross::ready()?.build("halo")?
        };
        let package = make(architecture, &halo, &native, &folder)?;
        say::step("Packaged", package.display());
        if args.trial && architecture == own {
            trial::run(&package)?;
        }
    }
    Ok(())
}

impl Architecture {
    fn own() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => anyhow::bail!(
                "there are packages for x86_64 and aarch64, and this machine is {other}"
            ),
        }
    }

    fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// Makes the package with the program `halo`. `native` is the same for this machine.
fn make(architecture: Architecture, halo: &Path, native: &Path, folder: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let architecture_name = architecture.debian();
    let library = setup::for_architecture(architecture.rust())?;
    let glibc = glibc::needed(halo)?.max(glibc::needed(&library)?);
    let tree = Tree::new()?;
    fill(&tree, halo, native, &library)?;
    let triple = format!("{}-unknown-linux-gnu", architecture.rust());
    tree.compressed("usr/share/doc/halo", "crates", notices::collect(&triple)?)?;
    let control = format!(
        "Package: halo\n\
         Version: {version}\n\
         Architecture: {architecture_name}\n\
         Maintainer: The authors of HALO <halo@localhost>\n\
         Installed-Size: {}\n\
         Depends: adduser, libc6 (>= {glibc}), libstdc++6\n\
         Section: net\n\
         Priority: optional\n\
         Description: language models across unequal machines and lossy networks\n \
          Runs LLaMA-family models on a handful of small machines, such as Raspberry\n \
          Pis, that are joined by a network which loses packets.\n",
        tree.kilobytes()?
    );
    tree.put("DEBIAN/control", control)?;
    tree.put("DEBIAN/conffiles", "/etc/halo/halo.toml\n")?;
    for script in ["postinst", "prerm", "postrm"] {
        tree.program(
            &format!("DEBIAN/{script}"),
            &paths::root().join("packaging").join(script),
        )?;
    }
    tree.package(
        &folder.join(format!("halo_{version}_{architecture_name}.deb")),
        &epoch()?,
    )
}

/// Puts everything into the package that will be on the machine.
fn fill(tree: &Tree, halo: &Path, native: &Path, library: &Path) -> Result<()> {
    let root = paths::root();
    // ONNX Runtime and models are looked for beside the program, where a link to it leads.
    tree.program("usr/lib/halo/halo", halo)?;
    tree.link("usr/bin/halo", "../lib/halo/halo")?;
    tree.copy(
        &format!("usr/lib/halo/{}", onnxruntime::library_name()),
        library,
    )?;
    tree.copy("usr/lib/halo/models/tiny", &root.join("models/tiny"))?;

    tree.copy("etc/halo/halo.toml", &root.join("docs/halo.toml"))?;
    let packaging = root.join("packaging");
    tree.copy(
        "usr/lib/systemd/system/halo.service",
        &packaging.join("halo.service"),
    )?;
    tree.copy(
        "usr/lib/sysctl.d/60-halo.conf",
        &packaging.join("halo.sysctl"),
    )?;

    let pages = tempfile::tempdir()?;
    cargo::run(Command::new(native).arg("manual").arg(pages.path()))?;
    for page in paths::files(pages.path())? {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        tree.compressed("usr/share/man/man1", &name, fs::read(&page)?)?;
    }
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/halo"),
        ("zsh", "usr/share/zsh/vendor-completions/_halo"),
        ("fish", "usr/share/fish/vendor_completions.d/halo.fish"),
    ] {
        tree.put(
            path,
            cargo::output(Command::new(native).args(["completions", shell]))?,
        )?;
    }

    tree.copy("usr/share/doc/halo/copyright", &packaging.join("copyright"))?;
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        tree.copy(
            &format!("usr/share/doc/halo/{licence}"),
            &root.join(licence),
        )?;
    }
    let beside = library.parent().context("the library is in a folder")?;
    for notice in ["LICENSE", "ThirdPartyNotices.txt"] {
        tree.copy(
            &format!("usr/share/doc/halo/onnxruntime/{notice}"),
            &beside.join(notice),
        )?;
    }
    Ok(())
}

/// Seconds since 1970 that every file of a package is dated with: `$SOURCE_DATE_EPOCH`, else when the source was committed.
fn epoch() -> Result<String> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.current_dir(paths::root())
        .args(["log", "-1", "--format=%ct"]);
    let epoch = cargo::output(&mut git)
        .context("set SOURCE_DATE_EPOCH to the time that the package's files shall have")?;
    Ok(epoch.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_package() {
        if Command::new("dpkg-deb").arg("--version").output().is_err() {
            eprintln!("left out: dpkg-deb is not there, so no package can be made here");
            return;
        }
        let make = || {
            let folder = tempfile::tempdir().unwrap();
            let tree = Tree::new().unwrap();
            tree.put("DEBIAN/control", "Package: halo\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b>\nDescription: d\n").unwrap();
            tree.copy(
                "usr/lib/halo/models/tiny",
                &paths::root().join("models/tiny"),
            )
            .unwrap();
            tree.program(
                "usr/lib/halo/halo",
                &paths::root().join("packaging/postinst"),
            )
            .unwrap();
            tree.link("usr/bin/halo", "../lib/halo/halo").unwrap();
            let package = tree
                .package(&folder.path().join("p.deb"), "1000000000")
                .unwrap();
            fs::read(package).unwrap()
        };
        let first = make();
        // Files have another time, and another place.
        assert!(first == make());
        assert!(first.starts_with(b"!<arch>\ndebian-binary   1000000000  0     0     100644"));
    }

    #[test]
    fn the_service_runs_what_the_command_line_has() {
        let unit = fs::read_to_string(paths::root().join("packaging/halo.service")).unwrap();
        assert_eq!(
            trial::command(&unit).unwrap(),
            ["/usr/bin/halo", "node", "--config", "/etc/halo/halo.toml"]
        );
    }
}
