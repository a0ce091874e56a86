use std::cmp::Reverse;

use serde::Serialize;

use crate::Documents;
use crate::kept::{Kept, lost};

/// Probes that keep less than this more than another are no better: such differences are between these documents only.
const WORTH: f64 = 1e-3;

/// What a calibration was made from and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalibrationReport {
    /// Tokens that the calibration was made from, the held-out ones among them.
    pub tokens: usize,
    /// The ridge that was chosen, in parts of the features' mean variance.
    pub ridge: f64,
    /// The rank that was chosen.
    pub rank: usize,
    /// Every combination that was tried.
    pub candidates: Vec<Candidate>,
    /// Groups of each layer that [`KeptShares`] leave out.
    pub lost: usize,
    /// Groups in each layer.
    pub groups: usize,
    /// What was kept of held-out documents, text by text.
    pub texts: Vec<KeptShares>,
    /// The same over all texts.
    pub overall: KeptShares,
}

/// A probe that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Its ridge.
    pub ridge: f64,
    /// Its rank.
    pub rank: usize,
    /// What it kept of all held-out documents: see [`KeptShares::probe`].
    pub kept: f64,
}

/// The share of the squared contribution that is kept when the quarter of a layer's groups with the lowest scores is left
/// out, averaged over tokens and layers: 1 is everything. By several ways to score, none of which saw the documents before.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeptShares {
    /// Name of the text.
    pub text: String,
    /// Tokens of its held-out documents.
    pub tokens: usize,
    /// By the contributions themselves, which nobody can know beforehand: the best there is.
    pub oracle: f64,
    /// By the probe that was chosen.
    pub probe: f64,
    /// By mean importance.
    pub static_mean: f64,
    /// By chance, in expectation.
    pub random: f64,
}

impl CalibrationReport {
    /// Chooses a candidate: of those that keep nearly as much as the best, the one of lowest rank, and then of largest ridge.
    pub(crate) fn new(
        tokens: usize,
        texts: &[Documents],
        kept: &[Kept],
        ridges: &[f64],
        ranks: &[usize],
        groups: usize,
    ) -> Self {
        let count = ridges.len() * ranks.len();
        let mut all = Kept::new(count);
        kept.iter().for_each(|kept| all.merge(kept));
        let candidates: Vec<Candidate> = (0..count)
            .map(|index| Candidate {
                ridge: ridges[index / ranks.len()],
                rank: ranks[index % ranks.len()],
                kept: all.probe(index),
            })
            .collect();
        let best = candidates.iter().fold(0f64, |best, c| best.max(c.kept));
        // Ridges are in rising order, so the last of a rank is its largest.
        let chosen = (0..count)
            .filter(|&index| candidates[index].kept >= best - WORTH)
            .max_by_key(|&index| Reverse(candidates[index].rank))
            .unwrap_or(0);
        let lost = lost(groups);
        let shares = |text: &str, kept: &Kept| KeptShares {
            text: text.into(),
            tokens: kept.tokens,
            oracle: kept.oracle(),
            probe: kept.probe(chosen),
            static_mean: kept.static_mean(),
            random: 1.0 - lost as f64 / groups as f64,
        };
        Self {
            tokens,
            ridge: candidates[chosen].ridge,
            rank: candidates[chosen].rank,
            lost,
            groups,
            texts: texts
                .iter()
                .zip(kept)
                .map(|(text, kept)| shares(&text.name, kept))
                .collect(),
            overall: shares("all", &all),
            candidates,
        }
    }
}
