//! Tests of what README.md and docs/ say: links lead somewhere, and the commands of this tool are understood.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::{Cli, paths};

/// README.md and every page below docs/.
fn pages() -> Vec<PathBuf> {
    fn below(folder: &Path, pages: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, pages);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut pages = vec![paths::root().join("README.md")];
    below(&paths::root().join("docs"), &mut pages);
    pages
}

/// The targets of the links and images of one page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

/// The lines of the shell blocks of one page.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"));
    blocks.flat_map(|(block, _)| block.lines())
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in
            links(&text).filter(|target| !target.contains("://") && !target.starts_with('#'))
        {
            let file = target.split('#').next().unwrap();
            assert!(
                page.parent().unwrap().join(file).exists(),
                "{} links to {target}, which is not there",
                page.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} links were found");
}

#[test]
fn commands_are_understood() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in commands(&text) {
            let Some(arguments) = line.strip_prefix("cargo xtask ") else {
                continue;
            };
            let words = ["cargo xtask"]
                .into_iter()
                .chain(arguments.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{}: `{line}`: {error}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked >= 3, "only {checked} commands were found");
}
