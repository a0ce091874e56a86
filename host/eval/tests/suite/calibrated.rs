//! The committed calibration of the default model, used as its documentation says, on text it was not made from.

use halo_engine::{Backbone, Engine, EngineError, EngineOptions, FeedForward, FeedForwardSource};
use halo_engine::{FeedForwardStep, KvCache};
use halo_models::Calibration;

use crate::texts::{KINDS, held_out, tiny};

/// Computes each group alone, so that its contribution can be seen.
struct OneByOne {
    groups: Vec<FeedForward>,
    width: usize,
    calibration: Calibration,
    earlier: Vec<f32>,
    kept: Kept,
}

/// Sums over rows of the share of the squared contribution kept when the lowest quarter is left out.
#[derive(Default)]
struct Kept {
    rows: f64,
    oracle: f64,
    probe: f64,
    mean: f64,
}

impl OneByOne {
    fn array(&self, name: &str, layer: usize) -> &[f32] {
        let array = &self.calibration.arrays[name];
        let len = array.values.len() / array.shape[0];
        &array.values[layer * len..(layer + 1) * len]
    }

    /// exp(bias + up · (down · x̂))
    fn scores(&self, layer: usize, x: &[f32]) -> Vec<f32> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let scale = (dot(x, x) / x.len() as f32 + 1e-6).sqrt().recip();
        let x: Vec<f32> = x.iter().map(|x| x * scale).collect();
        let down = self.array("probe.down", layer).chunks(x.len());
        let inner: Vec<f32> = down.map(|row| dot(row, &x)).collect();
        let up = self.array("probe.up", layer).chunks(inner.len());
        let bias = self.array("probe.bias", layer);
        up.zip(bias)
            .map(|(row, bias)| (bias + dot(row, &inner)).exp())
            .collect()
    }
}

/// What is left of the squares without the quarter of lowest scores.
fn kept(scores: &[f32], squares: &[f32]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let sum = |order: &[usize]| order.iter().map(|&i| f64::from(squares[i])).sum::<f64>();
    sum(&order[..scores.len() * 3 / 4]) / sum(&order)
}

impl FeedForwardSource for OneByOne {
    type Error = EngineError;

    fn begin(&mut self, embedded: &[f32]) -> Result<(), EngineError> {
        self.earlier = embedded.to_vec();
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EngineError> {
        let (width, count) = (self.width, self.groups.len());
        let mut squares = vec![vec![0f32; count]; step.hidden.len() / width];
        let mut partial = vec![0f32; step.sum.len()];
        for (group, feed_forward) in self.groups.iter_mut().enumerate() {
            feed_forward.run(step.layer, step.normed, &mut partial)?;
            step.sum
                .iter_mut()
                .zip(&partial)
                .for_each(|(sum, p)| *sum += p);
            for (row, partial) in partial.chunks(width).enumerate() {
                squares[row][group] = partial.iter().map(|v| v * v).sum();
            }
        }
        for (row, squares) in squares.iter().enumerate() {
            let scores = self.scores(step.layer, &self.earlier[row * width..(row + 1) * width]);
            assert!(
                scores
                    .iter()
                    .all(|score| score.is_finite() && *score >= 0.0)
            );
            self.kept.rows += 1.0;
            self.kept.oracle += kept(squares, squares);
            self.kept.probe += kept(&scores, squares);
            self.kept.mean += kept(self.array("mean", step.layer), squares);
        }
        self.earlier = step.hidden.to_vec();
        Ok(())
    }
}

#[test]
fn the_committed_calibration_predicts_text_it_has_not_seen() {
    let package = tiny();
    let calibration = package
        .calibration()
        .unwrap()
        .expect("models/tiny is calibrated");
    let (shape, groups) = (package.shape(), package.groups());
    let rank = calibration.arrays["probe.down"].shape[1];
    assert!(rank <= 32);
    for (name, expected) in [
        ("mean", vec![shape.layers, groups]),
        ("probe.down", vec![shape.layers, rank, shape.width]),
        ("probe.up", vec![shape.layers, groups, rank]),
        ("probe.bias", vec![shape.layers, groups]),
    ] {
        assert_eq!(calibration.arrays[name].shape, expected, "{name}");
    }
    let mean = &calibration.arrays["mean"].values;
    assert!(mean.iter().all(|value| *value > 0.0));

    let engine = Engine::start(&EngineOptions::default()).unwrap();
    let tokenizer = package.tokenizer().unwrap();
    let mut backbone = Backbone::load(&engine, &package).unwrap();
    let mut source = OneByOne {
        groups: (0..groups as u32)
            .map(|group| {
                FeedForward::load(&engine, &package, &vec![vec![group]; shape.layers]).unwrap()
            })
            .collect(),
        width: shape.width,
        calibration,
        earlier: Vec::new(),
        kept: Kept::default(),
    };
    for (name, _) in KINDS {
        source.kept = Kept::default();
        // Each group has graphs of its own, which makes this slow: a dozen documents will do.
        for text in held_out(name).texts.iter().take(12) {
            let mut tokens = vec![0];
            tokens.extend(tokenizer.encode(text).unwrap());
            tokens.truncate(128);
            let mut cache = KvCache::new(shape, tokens.len());
            backbone.forward(&tokens, &mut cache, &mut source).unwrap();
        }
        let Kept {
            rows,
            oracle,
            probe,
            mean,
        } = source.kept;
        let [oracle, probe, mean] = [oracle, probe, mean].map(|sum| sum / rows);
        println!(
            "{name}: kept of {rows} rows: oracle {oracle:.3}, probe {probe:.3}, static {mean:.3}, random 0.750"
        );
        assert!(rows > 9_000.0);
        assert!(
            oracle > probe && probe > mean + 0.01 && mean > 0.76,
            "{oracle} {probe} {mean}"
        );
    }
}
