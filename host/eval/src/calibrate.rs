use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use halo_engine::{Backbone, Engine, FeedForward, KvCache};
use halo_models::{Array, Calibration, Package};

use crate::checkpoint::Checkpoint;
use crate::contributions::Contributions;
use crate::kept::Kept;
use crate::observe::Observed;
use crate::probe::Probe;
use crate::sample::Sample;
use crate::statistics::{Statistics, features};
use crate::{CalibrationReport, Documents, EvalError, Progress, Stage};

/// How to calibrate.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrateOptions {
    /// Ranks to try. One that is more than the layer has groups is taken as that many.
    pub ranks: Vec<usize>,
    /// Ridges to try, in parts of the features' mean variance.
    pub ridges: Vec<f64>,
    /// Tokens that the model sees at once; documents that are longer are cut into windows.
    pub window: usize,
    /// Tokens to read at most, in equal parts from each text's beginning.
    pub max_tokens: Option<usize>,
    /// A file to keep in what was learnt so far, and how often: a calibration that was interrupted goes on from there. It
    /// takes `8 * layers * width²` bytes and a little more, and is removed at the end.
    pub checkpoint: Option<(PathBuf, Duration)>,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        Self {
            ranks: vec![4, 8, 12, 16, 24, 32],
            ridges: vec![1e-4, 1e-3, 1e-2, 1e-1],
            window: 512,
            max_tokens: None,
            checkpoint: None,
        }
    }
}

/// A calibration, to be stored with [`Package::with_calibration`], and what it is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The arrays.
    pub calibration: Calibration,
    /// What they were made from, and how they compare.
    pub report: CalibrationReport,
}

/// Learns from text which of a model's neuron groups matter. With L layers, G groups in each, width W and rank R:
///
/// | array | shape | what |
/// | --- | --- | --- |
/// | `mean` | L × G | importance whatever the input: the root of the mean, over tokens, of the group's share of the layer's squared contribution |
/// | `probe.down` | L × R × W | with `probe.up` and `probe.bias`: importance for the token at hand |
/// | `probe.up` | L × G × R | |
/// | `probe.bias` | L × G | |
///
/// A group's contribution is what it adds to the residual stream. The probe predicts its norm as
/// `exp(bias + up · (down · x̂))` from `x̂ = x / sqrt(mean(x²) + 1e-6)`, where `x` is the residual stream one round earlier:
/// after the attention of the layer before, or the token's embedding for the first layer.
///
/// Every seventh document of each text is held out (the last one, if a text has fewer than seven). Probes are fitted to the
/// others with each of the options' ridges and ranks, the held-out documents choose, and the one that is chosen is fitted
/// again to all documents. The same package, text and options always give the same bytes on the same machine.
///
/// Memory beside the model is about `8 * L * W²` bytes, however long the text is.
///
/// # Errors
///
/// Too little text, options that cannot be, or the model fails.
pub fn calibrate(
    engine: &Engine,
    package: &Package,
    texts: &[Documents],
    options: &CalibrateOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Calibrated, EvalError> {
    let (ranks, ridges) = candidates(package, options)?;
    let sample = Sample::read(package, texts, options)?;
    let shape = package.shape();
    let capacity = sample.longest().min(shape.context);
    let mut model = Observed {
        backbone: Backbone::load(engine, package)?,
        feed_forward: FeedForward::load_all(engine, package)?,
        contributions: Contributions::new(package),
        cache: KvCache::new(shape, capacity),
    };
    let total = sample.fitted.len() + sample.held_out.len();
    let mut statistics = vec![Statistics::new(shape.width, package.groups()); shape.layers];
    let mut checkpoint = options
        .checkpoint
        .as_ref()
        .map(|(path, every)| Checkpoint::new(path, *every, package, &sample));
    let mut ran = checkpoint
        .as_ref()
        .map_or(0, |checkpoint| checkpoint.resume(&mut statistics));
    let done = ran;
    let mut count = |progress: &mut dyn FnMut(Progress)| {
        ran += 1;
        progress(Progress {
            stage: Stage::Running,
            done: ran,
            total,
        });
    };

    for (index, document) in sample.fitted.iter().enumerate().skip(done) {
        for window in &document.windows {
            model.run(window, &mut |seen| {
                statistics[seen.layer].add(&features(seen.earlier, shape.width), seen.norms);
            })?;
        }
        if let Some(checkpoint) = &mut checkpoint {
            checkpoint.save(&statistics, index + 1)?;
        }
        count(progress);
    }

    let largest = ranks.iter().copied().max().unwrap_or(1);
    let mut fitted = Vec::with_capacity(shape.layers);
    for (layer, statistics) in statistics.iter().enumerate() {
        let probes = ridges
            .iter()
            .map(|&ridge| fit(layer, statistics, ridge, largest));
        fitted.push((
            statistics.importance(),
            probes.collect::<Result<Vec<_>, _>>()?,
        ));
        progress(Progress {
            stage: Stage::Fitting,
            done: layer + 1,
            total: shape.layers,
        });
    }

    let mut kept = vec![Kept::new(ridges.len() * ranks.len()); texts.len()];
    for document in &sample.held_out {
        let kept = &mut kept[document.text];
        for window in &document.windows {
            kept.tokens += window.len();
            model.run(window, &mut |seen| {
                let features = features(seen.earlier, shape.width);
                let (importance, probes) = &fitted[seen.layer];
                let scores: Vec<Vec<f64>> = probes
                    .iter()
                    .flat_map(|probe| ranks.iter().map(|&rank| probe.predict(&features, rank)))
                    .map(|logs| logs.as_slice().to_vec())
                    .collect();
                kept.add(seen.norms, importance, &scores);
                statistics[seen.layer].add(&features, seen.norms);
            })?;
        }
        count(progress);
    }

    let report = CalibrationReport::new(
        sample.tokens(),
        texts,
        &kept,
        &ridges,
        &ranks,
        package.groups(),
    );
    let calibration = arrays(&statistics, &report, shape.width)?;
    if let Some(checkpoint) = checkpoint {
        checkpoint.remove();
    }
    Ok(Calibrated {
        calibration,
        report,
    })
}

/// The ranks and ridges to try, in order and without repetition.
fn candidates(
    package: &Package,
    options: &CalibrateOptions,
) -> Result<(Vec<usize>, Vec<f64>), EvalError> {
    let most = package.groups().min(package.shape().width);
    let mut ranks: Vec<usize> = options.ranks.iter().map(|rank| *rank.min(&most)).collect();
    ranks.sort_unstable();
    ranks.dedup();
    if ranks.first().is_none_or(|rank| *rank == 0) {
        return Err(EvalError::Option(
            "a probe's rank must be 1 or more; name at least one".into(),
        ));
    }
    let mut ridges = options.ridges.clone();
    ridges.sort_by(f64::total_cmp);
    ridges.dedup();
    if ridges.is_empty()
        || ridges
            .iter()
            .any(|ridge| !(ridge.is_finite() && *ridge > 0.0))
    {
        return Err(EvalError::Option(
            "a probe's ridge must be a number above 0; name at least one".into(),
        ));
    }
    if options.window < 2 {
        return Err(EvalError::Option(
            "the window must be of 2 tokens at least".into(),
        ));
    }
    Ok((ranks, ridges))
}

fn fit(layer: usize, statistics: &Statistics, ridge: f64, rank: usize) -> Result<Probe, EvalError> {
    let not_finite = |what| EvalError::NotFinite { layer, what };
    let moments = statistics.moments().ok_or(not_finite(
        "its residual stream or its groups' contributions are not finite",
    ))?;
    Probe::fit(&moments, ridge, rank).ok_or(not_finite("no probe can be fitted to its numbers"))
}

/// Fits the probe that was chosen to everything seen.
fn arrays(
    statistics: &[Statistics],
    report: &CalibrationReport,
    width: usize,
) -> Result<Calibration, EvalError> {
    let (layers, groups, rank) = (statistics.len(), report.groups, report.rank);
    let (mut mean, mut down, mut up, mut bias) = (vec![], vec![], vec![], vec![]);
    // nalgebra's matrices are column-major: the transpose, read in order, is the matrix row by row.
    let put = |target: &mut Vec<f32>, values: &[f64]| {
        target.extend(values.iter().map(|value| *value as f32));
    };
    for (layer, statistics) in statistics.iter().enumerate() {
        let probe = fit(layer, statistics, report.ridge, rank)?;
        put(&mut mean, &statistics.importance());
        put(&mut down, probe.down.transpose().as_slice());
        put(&mut up, probe.up.transpose().as_slice());
        put(&mut bias, probe.bias(rank).as_slice());
    }
    let arrays = [
        ("mean", vec![layers, groups], mean),
        ("probe.down", vec![layers, rank, width], down),
        ("probe.up", vec![layers, groups, rank], up),
        ("probe.bias", vec![layers, groups], bias),
    ];
    let arrays = arrays.map(|(name, shape, values)| (name.to_owned(), Array { shape, values }));
    Ok(Calibration {
        arrays: BTreeMap::from(arrays),
    })
}
