//! The guide to writing a policy, followed to the letter: its commands are run, its code is put where it says, in a folder of
//! its own.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::compiler::Compiler;
use crate::summary::Done;
use crate::sysroot::Std;
use crate::{cargo, paths, policies};

/// The page, and the crate that it makes.
const PAGE: &str = "docs/guides/policies.md";
const CRATE: &str = "my-scheduler";

/// One thing that the guide has its reader do.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// `halo policy …`, with these arguments.
    Halo(Vec<String>),
    /// `cargo xtask policies FOLDER`.
    Compile(String),
    /// A function that takes the place of the one of the same name.
    Replace(String),
}

/// Does what the guide says.
pub(crate) fn follow(_: &Compiler, std: &Std) -> Result<Done> {
    let halo = cargo::build("halo")?;
    let text = fs::read_to_string(paths::root().join(PAGE))
        .with_context(|| format!("cannot read {PAGE}"))?;
    let steps = steps(&text);
    let folder = tempfile::tempdir()?;
    let (mut compiled, mut tested, mut replaced) = (0, 0, 0);
    for step in &steps {
        match step {
            Step::Halo(arguments) => {
                let mut command = Command::new(&halo);
                cargo::run(command.current_dir(folder.path()).args(arguments))?;
                tested += u32::from(arguments.iter().any(|word| word == "test"));
            }
            Step::Compile(name) => {
                policies::build_crate(std, &folder.path().join(name))?;
                compiled += 1;
            }
            Step::Replace(function) => {
                let path = folder.path().join(CRATE).join("src/lib.rs");
                let source = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                fs::write(&path, replace(&source, function)?)?;
                replaced += 1;
            }
        }
    }
    ensure!(
        compiled >= 2 && tested >= 2 && replaced >= 2,
        "{PAGE} compiles {compiled} times, tests {tested} times and writes {replaced} functions: is it still that guide?"
    );
    Ok(Done::Noted(format!("{} steps", steps.len())))
}

/// What there is to do, in its order. Commands that need a cluster or another tool are left out.
fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for block in text.split("\n```").skip(1).step_by(2) {
        let Some((language, code)) = block.split_once('\n') else {
            continue;
        };
        match language {
            "sh" => steps.extend(code.lines().filter_map(command)),
            "rust" if code.starts_with("    fn ") => steps.push(Step::Replace(code.to_owned())),
            _ => {}
        }
    }
    steps
}

fn command(line: &str) -> Option<Step> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let text: Vec<&str> = words.iter().map(String::as_str).collect();
    match text[..] {
        ["halo", "policy", "new" | "test", ..] => Some(Step::Halo(words[1..].to_vec())),
        ["cargo", "xtask", "policies", folder] => Some(Step::Compile(folder.to_owned())),
        _ => None,
    }
}

/// The source with `function` in the place of the one that has its name.
fn replace(source: &str, function: &str) -> Result<String> {
    let name = function.split_once('(').map_or(function, |(name, _)| name);
    let start = source.find(&format!("{name}("));
    let start = start.with_context(|| format!("there is no `{}` to replace", name.trim()))?;
    let end = source[start..].find("\n    }\n");
    let end = start + end.with_context(|| format!("`{}` does not end", name.trim()))?;
    Ok(format!(
        "{}{}{}",
        &source[..start],
        function.trim_end(),
        &source[end + "\n    }".len()..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_their_order() {
        let text = "Do:\n\n```sh\nhalo policy new scheduler mine\nhalo status\n```\n\nand\n\n```rust\n    fn admit() {}\n```\n\n```sh\ncargo xtask policies mine\n```\n";
        assert_eq!(
            steps(text),
            [
                Step::Halo(
                    ["policy", "new", "scheduler", "mine"]
                        .map(Into::into)
                        .into()
                ),
                Step::Replace("    fn admit() {}".into()),
                Step::Compile("mine".into()),
            ]
        );
    }

    #[test]
    fn a_function_takes_its_namesakes_place() {
        let source =
            "impl A {\n    fn a() {\n        1\n    }\n\n    fn b() {\n        2\n    }\n}\n";
        let replaced = replace(source, "    fn a() {\n        3\n    }\n").unwrap();
        assert_eq!(
            replaced,
            "impl A {\n    fn a() {\n        3\n    }\n\n    fn b() {\n        2\n    }\n}\n"
        );
        assert!(replace(source, "    fn c() {}").is_err());
    }
}
