//! Debian's packages, brought into a folder of ours: neither the installed packages nor apt's lists are changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::{output, run};
use crate::paths::files;
use crate::say;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package of Debian, in one of its versions.
#[derive(Debug)]
pub(crate) struct Package {
    /// The version, such as `1.95.0+dfsg1-2`.
    pub(crate) version: String,
    /// The downloaded file.
    file: PathBuf,
}

impl Package {
    /// Downloads the package `name` to a folder in `folder`, from the first of `suites` that has a version which is `right`.
    pub(crate) fn bring(
        folder: &Path,
        suites: &[&str],
        name: &str,
        right: impl Fn(&str) -> bool,
    ) -> Result<Option<Self>> {
        let mirror = mirror()?;
        for suite in suites {
            let apt = Apt::new(folder, &mirror, suite)?;
            if let Some(version) = apt.version(name, &right) {
                say::step(
                    "Downloading",
                    format_args!("{name} {version} from {mirror} {suite}"),
                );
                let file = apt.download(name, &version)?;
                return Ok(Some(Self { version, file }));
            }
        }
        Ok(None)
    }

    /// Takes the files whose paths match `pattern`, such as `./usr/bin/*`, out of the package into `folder`.
    pub(crate) fn unpack(&self, pattern: &str, folder: &Path) -> Result<()> {
        let mut archive = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&self.file)
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
            .arg(pattern);
        let status = tar.stdin(stream).status().context("cannot run `tar`")?;
        let archive = archive.wait()?;
        ensure!(
            status.success() && archive.success(),
            "cannot unpack {}",
            self.file.display()
        );
        Ok(())
    }
}

/// The mirror of Debian that apt is set up with.
fn mirror() -> Result<String> {
    let targets = [
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Identifier: Packages",
    ];
    let mirrors = output(Command::new("apt-get").args(targets))?;
    let mirror = mirrors
        .lines()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    Ok(mirror.context("apt has no Debian mirror")?.to_owned())
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

    /// The first version of a package that is `right`, if the suite has it.
    fn version(&self, package: &str, right: impl Fn(&str) -> bool) -> Option<String> {
        // A suite that the mirror does not have is no error: the next one may have it.
        run(self
            .command("apt-get")
            .args(["--quiet", "--quiet", "update"]))
        .ok()?;
        let lines = output(self.command("apt-cache").args(["madison", package])).ok()?;
        madison(&lines).find(|version| right(version))
    }

    fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        run(self
            .command("apt-get")
            .arg("--quiet")
            .args(["download", &format!("{package}={version}")]))?;
        files(&self.folder)?
            .into_iter()
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get downloaded no package")
    }
}

/// The versions in what `apt-cache madison` says: `package | version | source`.
fn madison(lines: &str) -> impl Iterator<Item = String> {
    lines
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(|version| version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let lines = "  rust-src | 1.95.1+dfsg1-1 | http://mirror/debian sid/main amd64 Packages\n  \
                     rust-src | 1.95.0+dfsg1-2 | http://mirror/debian sid/main amd64 Packages\n";
        let versions: Vec<_> = madison(lines).collect();
        assert_eq!(versions, ["1.95.1+dfsg1-1", "1.95.0+dfsg1-2"]);
        assert_eq!(madison("").count(), 0);
    }
}
