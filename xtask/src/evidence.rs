//! `cargo xtask evidence`: every claim measured, and written down with the command that repeats it.

mod cluster;
mod loading;
mod measurement;
mod mechanisms;
mod page;
mod plot;
mod policies;
mod quality;
mod rounds;
mod scale;
mod section;
mod speed;
mod swaps;
mod unequal;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::summary::Done;
use crate::{cargo, lab, paths, peers, say, setup};

use measurement::Programs;
use page::Page;
use scale::Scale;
use section::{SECTIONS, Section};

/// Measure everything that HALO claims, and write docs/evidence.md with tables and plots.
///
/// Runs the lab and the evaluations, one after the other; each section of the page names the command that repeats it alone. What was measured is
/// kept below the data folder, so a run that is interrupted goes on where it was; what was measured by another build is measured anew.
/// All of it takes about three quarters of an hour, and --quick less than ten minutes. Needs what the lab needs. Let the machine do
/// nothing else meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fewer tokens, texts, shares of loss and rounds.
    #[arg(long)]
    quick: bool,
    /// As little as there can be, of the smallest model: to see that it runs, not to measure.
    #[arg(long, conflicts_with = "quick")]
    trial: bool,
    /// Only these sections.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = section::named)]
    only: Vec<&'static Section>,
    /// Measure again what was measured before.
    #[arg(long)]
    again: bool,
    /// Write the page and its plots to this folder [default: docs; unless all is measured in full, evidence in the data folder].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Run this `halo` instead of building it.
    #[arg(long, value_name = "FILE")]
    halo: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    lab::ready()?;
    setup::ready(setup::Args::default())?;
    let halo = match args.halo {
        Some(halo) => halo,
        None => cargo::build("halo")?,
    };
    let scale = match (args.trial, args.quick) {
        (true, _) => Scale::trial(),
        (_, true) => Scale::QUICK.with_model(model(&halo)?),
        _ => Scale::FULL.with_model(model(&halo)?),
    };
    let kept = paths::data()?.join("evidence");
    let whole = args.only.is_empty();
    let out = match args.out {
        Some(out) => out,
        None if whole && !args.quick && !args.trial => paths::root().join("docs"),
        None => kept.clone(),
    };
    let sections: Vec<&Section> = if whole {
        SECTIONS.iter().collect()
    } else {
        args.only
    };
    let programs = Programs::new(halo, kept.join(scale.name), args.again)?;
    let path = write(&scale, &sections, &programs, &out)?;
    say::step("Written", path.display());
    Ok(())
}

/// Random weights in the shape of a published model, made once.
fn model(halo: &Path) -> Result<PathBuf> {
    const SHAPE: &str = "tinyllama-1.1b";
    let folder = paths::data()?.join("lab");
    let package = folder.join(SHAPE);
    if package.join("manifest.json").exists() {
        return Ok(package);
    }
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    peers::random_package(halo, SHAPE, None, &folder)
}

/// Measures sections and writes their page to a folder. Returns where it is.
fn write(scale: &Scale, sections: &[&Section], programs: &Programs, out: &Path) -> Result<PathBuf> {
    let mut page = Page::new(scale, programs)?;
    for section in sections {
        say::step("Section", section.title);
        let mut results = Vec::new();
        for command in (section.commands)(scale) {
            results.push(programs.measure(&command)?);
        }
        page.begin(section, scale);
        (section.show)(&results, &mut page).with_context(|| {
            format!(
                "cannot make sense of what was measured for {}",
                section.name
            )
        })?;
    }
    page.write(out)
}

/// All of it with the smallest model and as little as there can be, as a test: nothing here depends on how fast anything is.
pub(crate) fn trial() -> Result<Done> {
    if let Err(error) = lab::ready() {
        return Ok(Done::Skipped(format!("{error:#}")));
    }
    let folder = tempfile::tempdir()?;
    let programs = Programs::new(cargo::build("halo")?, folder.path().join("kept"), false)?;
    let sections: Vec<&Section> = SECTIONS.iter().collect();
    let path = write(&Scale::trial(), &sections, &programs, folder.path())?;
    let page = fs::read_to_string(&path)?;
    for section in sections {
        anyhow::ensure!(
            page.contains(section.title),
            "{} is not on the page",
            section.name
        );
    }
    let plots = paths::files(&folder.path().join("evidence"))?;
    anyhow::ensure!(!plots.is_empty(), "there are no plots");
    // Nothing is measured twice.
    let before = fs::read(&path)?;
    write(
        &Scale::trial(),
        &SECTIONS.iter().collect::<Vec<_>>(),
        &programs,
        folder.path(),
    )?;
    anyhow::ensure!(fs::read(&path)? == before, "what was kept was not used");
    Ok(Done::Noted(format!(
        "{} sections, {} plots",
        SECTIONS.len(),
        plots.len()
    )))
}
