use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};

use super::measurement::Programs;
use super::scale::Scale;
use super::section::Section;
use crate::{cargo, paths, peers};

/// The page in the making, and its plots by name.
#[derive(Debug)]
pub(super) struct Page {
    text: String,
    plots: BTreeMap<String, String>,
}

const BEGINNING: &str = "\
# Evidence

What HALO claims, as measured by one command, `cargo xtask evidence`, on the machine named below. Each section ends with the command that
repeats it alone, on your machine. What the commands do is in the guides to [the lab](guides/lab.md) and to
[benchmarks](guides/benchmarks.md).

";

const ENDING: &str = "
## The paper

HALO implements *HALO: Semantic-Aware Distributed LLM Inference in Lossy Edge Network* (arXiv 2601.11676), whose abstract and second-hand
accounts give these figures. They are of other hardware, other models and another baseline, and stand here for orientation, not as a
comparison.

| the paper, on a cluster of Raspberry Pis | |
| --- | --- |
| end to end against tensor parallelism over TCP, unreliable network | 3.41x |
| accuracy lost at 5 % of packets lost | less than 1 % |
| what each 1 % of packets lost costs tensor parallelism over TCP | about 617 ms a token |

What could not be compared: nothing here ran on Raspberry Pis or over radio, since the lab's hosts share one machine, its memory and its
cores; models of a billion weights had random ones, so that quality is the small default model's only; no benchmark of the paper's
accuracy was run, nor eight hosts.
";

impl Page {
    pub(super) fn new(scale: &Scale, programs: &Programs) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let version = cargo::output(Command::new(programs.halo()).arg("--version"))?;
        let commit = cargo::output(
            Command::new("git")
                .args(["describe", "--always", "--dirty"])
                .current_dir(paths::root()),
        );
        let memory = read("/proc/meminfo");
        let memory = memory.lines().next().and_then(|line| {
            let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(format!(", {:.0} GB of memory", kilobytes / 1e6))
        });
        let conditions = format!(
            "{} (commit {}), on {} with {} cores{}, Linux {}. Scale: {}.\n",
            version.trim(),
            commit.as_deref().map_or("unknown", str::trim),
            peers::processor(),
            thread::available_parallelism().map_or(1, usize::from),
            memory.unwrap_or_default(),
            read("/proc/sys/kernel/osrelease").trim(),
            scale.name,
        );
        Ok(Self {
            text: BEGINNING.to_owned() + &conditions,
            plots: BTreeMap::new(),
        })
    }

    pub(super) fn begin(&mut self, section: &Section, scale: &Scale) {
        let Section {
            name, title, about, ..
        } = section;
        let option = match scale.name {
            "full" => String::new(),
            name => format!(" --{name}"),
        };
        self.line(&format!(
            "\n## {title}\n\n{about}\n\n```sh\ncargo xtask evidence{option} --only {name}\n```\n\n<details><summary>which runs</summary>\n"
        ));
        let home = env::var("HOME").ok().filter(|home| !home.is_empty());
        for mut command in (section.commands)(scale) {
            // As the reader's shell reads it, too.
            if let Some(home) = &home {
                command = command.replace(&format!(" {home}/"), " ~/");
            }
            self.line(&format!("- `{command}`"));
        }
        self.line("\n</details>\n");
    }

    pub(super) fn line(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    /// Rows of cells, the first of which are the heads. Numbers stand to the right, what is in the first column to the left.
    pub(super) fn table(&mut self, rows: &[Vec<String>]) {
        for (index, row) in rows.iter().enumerate() {
            self.line(&format!("| {} |", row.join(" | ")));
            if index == 0 {
                let columns = row.len().saturating_sub(1);
                self.line(&format!("| --- |{}", " ---: |".repeat(columns)));
            }
        }
        self.line("");
    }

    /// Puts a plot here.
    pub(super) fn plot(&mut self, name: &str, alt: &str, svg: String) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "![{alt}](evidence/{name}.svg)\n");
        self.plots.insert(name.to_owned(), svg);
    }

    /// Writes the page and its plots, and returns where the page is.
    pub(super) fn write(mut self, folder: &Path) -> Result<PathBuf> {
        self.text += ENDING;
        let plots = folder.join("evidence");
        fs::create_dir_all(&plots)
            .with_context(|| format!("cannot make the folder {}", plots.display()))?;
        let path = folder.join("evidence.md");
        for (path, text) in (self.plots.iter())
            .map(|(name, svg)| (plots.join(format!("{name}.svg")), svg))
            .chain([(path.clone(), &self.text)])
        {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(path)
    }
}
