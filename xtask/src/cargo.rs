//! Calling Cargo: in this workspace or the policies' own, always in the one profile, always by the lock file.

use std::env;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::paths;

/// One of the two workspaces of this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workspace {
    /// What runs on a machine: the host, the models and this tool.
    Host,
    /// The policies, which are compiled to WebAssembly.
    Plugins,
}

impl Workspace {
    /// A Cargo command that runs in this workspace.
    pub(crate) fn cargo(self, subcommand: &str) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(self.folder()).arg(subcommand);
        // Cargo has told us where we are, and `ring`, hence zenoh, would be compiled anew because of it.
        command.env_remove("CARGO_MANIFEST_DIR");
        command
    }

    fn folder(self) -> PathBuf {
        match self {
            Self::Host => paths::root().to_owned(),
            Self::Plugins => paths::root().join("plugins"),
        }
    }
}

/// Runs `command` with what it prints going where ours does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| cannot_run(command))?;
    ensure!(status.success(), "`{}` failed ({status})", words(command));
    Ok(())
}

/// Runs `command` and returns what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| cannot_run(command))?;
    ensure!(
        output.status.success(),
        "`{}` failed ({})",
        words(command),
        output.status
    );
    String::from_utf8(output.stdout)
        .with_context(|| format!("what `{}` prints is not text", words(command)))
}

/// A program that Cargo has built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name in its package.
    pub(crate) name: String,
    /// Its package's folder.
    pub(crate) folder: PathBuf,
    /// Whether it runs tests.
    pub(crate) test: bool,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// One line of Cargo's JSON messages: of all its fields, those that say what and where a program is.
#[derive(Debug, Deserialize)]
struct Message {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the program `name` for this machine and returns where Cargo has put it.
pub(crate) fn build(name: &str) -> Result<PathBuf> {
    // With all the workspace's features, although one program is asked for: else the tests would compile some
    // dependencies a second time, with other features.
    let mut command = Workspace::Host.cargo("build");
    command.args(["--release", "--locked", "--workspace"]);
    program(&mut command, name)
}

/// Builds the program `name` with a `cargo build` for all of the workspace, and returns where Cargo has put it.
pub(crate) fn program(command: &mut Command, name: &str) -> Result<PathBuf> {
    let programs = programs(command.args(["--bin", name]))?;
    let program = programs.into_iter().find(|program| program.name == name);
    let program =
        program.with_context(|| format!("Cargo built {name} and did not say where it is"))?;
    Ok(program.path)
}

/// Builds with a Cargo command, and returns what programs came of it.
pub(crate) fn programs(command: &mut Command) -> Result<Vec<Program>> {
    command.args(["--message-format", "json-render-diagnostics"]);
    Ok(read_programs(&output(command)?))
}

fn read_programs(messages: &str) -> Vec<Program> {
    // Lines of other kinds have other fields.
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let programs = messages.filter_map(|message| {
        Some(Program {
            name: message.target.name,
            folder: message.manifest_path.parent()?.to_owned(),
            test: message.profile.test,
            path: message.executable?,
        })
    });
    programs.collect()
}

/// How many tests passed and were left out, and which failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) ignored: u64,
    pub(crate) failed: Vec<String>,
}

impl Counts {
    /// Adds what a test's line or the closing line of a test program says. Other lines say nothing.
    fn add(&mut self, line: &str) {
        if let Some((name, end)) = line
            .strip_prefix("test ")
            .and_then(|line| line.rsplit_once(" ... "))
            && end.contains("FAILED")
        {
            self.failed.push(name.to_owned());
        }
        let Some((_, counts)) = line
            .split_once("test result: ")
            .and_then(|(_, rest)| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count
                .split_once(' ')
                .map(|(count, what)| (count.parse().unwrap_or(0), what))
            {
                Some((count, "passed")) => self.passed += count,
                Some((count, "ignored")) => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Runs tests of `workspace`, doc tests too. `filter` are the test programs' arguments: parts of names, for example.
pub(crate) fn test(workspace: Workspace, filter: &[String]) -> (Counts, Result<()>) {
    let mut counts = Counts::default();
    let mut command = workspace.cargo("test");
    command
        .args([
            "--release",
            "--locked",
            "--workspace",
            "--no-fail-fast",
            "--",
        ])
        .args(filter);
    if io::stdout().is_terminal() {
        // The tests write to a pipe, and would not know.
        command.arg("--color=always");
    }
    let result = run_tests(&mut command, &mut counts);
    (counts, result)
}

/// Runs test programs, printing what they print, and adds up what they say.
pub(crate) fn run_tests(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cannot_run(command))?;
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            io::stdout().write_all(&line)?;
            counts.add(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "`{}` failed ({status})", words(command));
    Ok(())
}

fn cannot_run(command: &Command) -> String {
    let words = words(command);
    if words.starts_with("cargo ") {
        return format!("cannot run `{words}`: is Rust installed (https://rustup.rs)?");
    }
    format!("cannot run `{words}`")
}

/// The command as a person would type it.
pub(crate) fn words(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words: Vec<_> = std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut counts = Counts::default();
        counts.add("running 3 tests");
        counts.add("test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s\n");
        counts.add("test result: \u{1b}[31mFAILED\u{1b}[m. 10 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.10s\n");
        counts.add("test a::b ... ok\n");
        counts.add("test a::c ... \u{1b}[31mFAILED\u{1b}[m\n");
        assert_eq!(
            counts,
            Counts {
                passed: 12,
                ignored: 1,
                failed: vec!["a::c".into()],
            }
        );
    }

    #[test]
    fn programs_are_found_where_cargo_says() {
        let messages = r#"
{"reason":"compiler-artifact","manifest_path":"/w/cli/Cargo.toml","target":{"name":"halo","kind":["lib"]},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/cli/Cargo.toml","target":{"name":"halo","kind":["bin"]},"profile":{"test":false},"executable":"/t/release/halo"}
{"reason":"build-script-executed","package_id":"p"}
{"reason":"compiler-artifact","manifest_path":"/w/cli/Cargo.toml","target":{"name":"docs","kind":["test"]},"profile":{"test":true},"executable":"/t/release/docs-1"}
{"reason":"build-finished","success":true}"#;
        let program = |name: &str, test, path: &str| Program {
            name: name.into(),
            folder: "/w/cli".into(),
            test,
            path: path.into(),
        };
        assert_eq!(
            read_programs(messages),
            [
                program("halo", false, "/t/release/halo"),
                program("docs", true, "/t/release/docs-1"),
            ]
        );
    }
}
