use anyhow::Result;
use serde_json::Value;

use super::page::Page;
use super::scale::Scale;
use super::{cluster, loading, mechanisms, policies, quality, rounds, speed, swaps, unequal};

/// What one command printed, line by line.
pub(super) type Lines = Vec<Value>;

/// One claim: what is run for it, and how that is shown.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What was measured, in a sentence or two.
    pub(super) about: &'static str,
    /// The commands whose JSON is the evidence.
    pub(super) commands: fn(&Scale) -> Vec<String>,
    /// Shows what they printed, in their order.
    pub(super) show: fn(&[Lines], &mut Page) -> Result<()>,
}

/// All of them, in the page's order.
pub(super) const SECTIONS: &[Section] = &[
    speed::SECTION,
    quality::SECTION,
    cluster::SECTION,
    unequal::SECTION,
    loading::SECTION,
    mechanisms::SECTION,
    swaps::SECTION,
    policies::SECTION,
    rounds::SECTION,
];

/// The section of a name.
pub(super) fn named(name: &str) -> Result<&'static Section, String> {
    SECTIONS
        .iter()
        .find(|section| section.name == name)
        .ok_or_else(|| {
            let names: Vec<_> = SECTIONS.iter().map(|section| section.name).collect();
            format!("sections are {}", names.join(", "))
        })
}
