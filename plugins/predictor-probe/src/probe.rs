//! The probe and its arithmetic.

use crate::bindings::exports::halo::policy::predictor::{Model, Tensor};

/// Logarithms of scores are kept within this: enough for any proportions that matter, and every score stays finite.
const MAX_LOG: f32 = 30.0;
/// Sums that are kept side by side: four vectors of four, which hides the latency of the additions.
const LANES: usize = 16;

/// One linear map a layer, through a space of few dimensions.
pub struct Probe {
    width: usize,
    groups: usize,
    rank: usize,
    down: Vec<f32>,
    up: Vec<f32>,
    bias: Vec<f32>,
}

impl Probe {
    /// Takes the probe's arrays out of `parameters`.
    pub fn new(model: &Model, mut parameters: Vec<Tensor>) -> Result<Self, String> {
        let mut take =
            |name: &str| {
                let index = parameters.iter().position(|tensor| tensor.name == name).ok_or_else(|| {
                format!("the package has no parameter {name:?}: run `halo model calibrate` on it")
            })?;
                Ok::<_, String>(parameters.swap_remove(index))
            };
        let (down, up, bias) = (take("probe.down")?, take("probe.up")?, take("probe.bias")?);
        let &Model {
            layers,
            width,
            groups,
            ..
        } = model;
        let rank = down.shape.get(1).copied().unwrap_or(0);
        let checked = |tensor: Tensor, expected: &[u32]| {
            let count: usize = expected.iter().map(|&n| n as usize).product();
            let Tensor {
                name,
                shape,
                values,
            } = tensor;
            if shape != expected || values.len() != count {
                return Err(format!(
                    "parameter {name} has shape {shape:?}, not {expected:?}"
                ));
            }
            if values.iter().any(|value| !value.is_finite()) {
                return Err(format!("parameter {name} has values that are not finite"));
            }
            Ok(values)
        };
        if rank == 0 {
            return Err(format!(
                "parameter probe.down has shape {:?}: no rank",
                down.shape
            ));
        }
        Ok(Self {
            width: width as usize,
            groups: groups as usize,
            rank: rank as usize,
            down: checked(down, &[layers, rank, width])?,
            up: checked(up, &[layers, groups, rank])?,
            bias: checked(bias, &[layers, groups])?,
        })
    }

    /// Scores of all groups of `layer`.
    pub fn score(&self, layer: usize, mut hidden: Vec<f32>) -> Vec<f32> {
        assert_eq!(
            hidden.len(),
            self.width,
            "the hidden state has the model's width"
        );
        normalise(&mut hidden);
        let inner = multiply(part(&self.down, layer, self.rank * self.width), &hidden);
        let logs = multiply(part(&self.up, layer, self.groups * self.rank), &inner);
        let bias = part(&self.bias, layer, self.groups);
        logs.iter()
            .zip(bias)
            .map(|(log, bias)| (log + bias).clamp(-MAX_LOG, MAX_LOG).exp())
            .collect()
    }
}

/// The values of one layer.
fn part(values: &[f32], layer: usize, len: usize) -> &[f32] {
    &values[layer * len..(layer + 1) * len]
}

/// Divides by the root of the mean square, as the model's own norms do.
fn normalise(values: &mut [f32]) {
    let mean = dot(values, values) / values.len() as f32;
    let scale = 1.0 / (mean + 1e-6).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

/// A matrix, row by row, with a vector.
fn multiply(matrix: &[f32], vector: &[f32]) -> Vec<f32> {
    matrix
        .chunks_exact(vector.len())
        .map(|row| dot(row, vector))
        .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes
        .remainder()
        .iter()
        .zip(b_lanes.remainder())
        .map(|(x, y)| x * y)
        .sum();
    let mut sums = [0f32; LANES];
    for (x, y) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: u32 = 2;
    const RANK: u32 = 3;
    const WIDTH: u32 = 21;
    const GROUPS: u32 = 5;

    fn model() -> Model {
        Model {
            layers: LAYERS,
            width: WIDTH,
            groups: GROUPS,
            group_bytes: 1,
            attention_cost: 1.0,
            head_cost: 1.0,
            importance: Vec::new(),
        }
    }

    fn tensor(name: &str, shape: &[u32], seed: f32) -> Tensor {
        let count: u32 = shape.iter().product();
        let values = (0..count).map(|i| (i as f32 * 0.7 + seed).sin()).collect();
        Tensor {
            name: name.into(),
            shape: shape.to_vec(),
            values,
        }
    }

    fn parameters() -> Vec<Tensor> {
        vec![
            tensor("mean", &[LAYERS, GROUPS], 0.0),
            tensor("probe.up", &[LAYERS, GROUPS, RANK], 1.0),
            tensor("probe.down", &[LAYERS, RANK, WIDTH], 2.0),
            tensor("probe.bias", &[LAYERS, GROUPS], 3.0),
        ]
    }

    #[test]
    fn agrees_with_plain_arithmetic() {
        let probe = Probe::new(&model(), parameters()).unwrap();
        let hidden: Vec<f32> = (0..WIDTH).map(|i| (i as f32).cos() * 3.0).collect();
        let mean_square =
            hidden.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / f64::from(WIDTH);
        let find = |name: &str, index: u32| {
            let tensors = parameters();
            f64::from(tensors.iter().find(|t| t.name == name).unwrap().values[index as usize])
        };
        for layer in 0..LAYERS {
            let scores = probe.score(layer as usize, hidden.clone());
            assert_eq!(scores.len(), GROUPS as usize);
            for group in 0..GROUPS {
                let mut log = find("probe.bias", layer * GROUPS + group);
                for r in 0..RANK {
                    let row = (layer * RANK + r) * WIDTH;
                    let inner: f64 = (0..WIDTH)
                        .map(|i| find("probe.down", row + i) * f64::from(hidden[i as usize]))
                        .sum::<f64>()
                        / (mean_square + 1e-6).sqrt();
                    log += find("probe.up", (layer * GROUPS + group) * RANK + r) * inner;
                }
                let score = f64::from(scores[group as usize]);
                assert!(
                    (score - log.exp()).abs() < 1e-4 * log.exp(),
                    "{score} {}",
                    log.exp()
                );
            }
        }
    }

    #[test]
    fn scores_stay_finite() {
        let mut wild = parameters();
        wild.iter_mut()
            .flat_map(|tensor| &mut tensor.values)
            .for_each(|value| *value *= 1e6);
        let probe = Probe::new(&model(), wild).unwrap();
        for value in [0.0, 1e-30, 1.0, 1e15] {
            let scores = probe.score(0, vec![value; WIDTH as usize]);
            assert!(
                scores.iter().all(|score| score.is_finite() && *score > 0.0),
                "{scores:?}"
            );
        }
    }

    #[test]
    fn bad_parameters_are_refused() {
        let refused = |change: &dyn Fn(&mut Vec<Tensor>)| {
            let mut given = parameters();
            change(&mut given);
            Probe::new(&model(), given).err().unwrap()
        };
        assert!(refused(&|p| p.truncate(1)).contains("no parameter \"probe.down\""));
        assert!(
            refused(&|p| p[1].shape[0] = 9).contains("probe.up has shape [9, 5, 3], not [2, 5, 3]")
        );
        assert!(refused(&|p| _ = p[3].values.pop()).contains("probe.bias"));
        assert!(refused(&|p| p[2].shape = vec![]).contains("no rank"));
        assert!(refused(&|p| p[3].values[0] = f32::INFINITY).contains("not finite"));
    }
}
