use std::thread;

use halo_models::Package;
use pulp::{Arch, NullaryFnOnce};

use super::gate::silu;
use crate::EngineError;

/// Adds the contribution of some groups of a layer for `normed` to `partial`, both `[rows, width]`, on so many threads.
///
/// This takes the weights as they lie in the package, in f32. For weights that are used for one pass and let go of, that is
/// several times as fast as having ONNX Runtime pack them and compute with the result.
pub(super) fn add(
    package: &Package,
    (layer, groups): (usize, &[u32]),
    threads: usize,
    normed: &[f32],
    partial: &mut [f32],
) -> Result<(), EngineError> {
    let mut shares = groups.chunks(groups.len().div_ceil(threads).max(1));
    let Some(own) = shares.next() else {
        return Ok(());
    };
    let run = |groups, partial: &mut [f32]| {
        Arch::new().dispatch(Share {
            package,
            layer,
            groups,
            normed,
            partial,
        });
    };
    thread::scope(|scope| {
        let others = shares
            .map(|share| {
                let mut sum = vec![0f32; partial.len()];
                thread::Builder::new().spawn_scoped(scope, move || {
                    run(share, &mut sum);
                    sum
                })
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(EngineError::Thread)?;
        run(own, partial);
        for other in others {
            let sum = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for (value, other) in partial.iter_mut().zip(sum) {
                *value += other;
            }
        }
        Ok(())
    })
}

/// What one thread does. It is compiled for the widest vectors that the processor has, with all that is inlined.
struct Share<'a> {
    package: &'a Package,
    layer: usize,
    groups: &'a [u32],
    normed: &'a [f32],
    partial: &'a mut [f32],
}

impl NullaryFnOnce for Share<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (width, size) = (self.package.shape().width, self.package.group_size());
        let rows = self.normed.len() / width;
        let (mut gate, mut up, mut down) = (vec![0f32; width], vec![0f32; width], vec![0f32; size]);
        let mut activations = vec![0f32; rows * size];
        for &group in self.groups {
            let weights = self.package.group(self.layer, group as usize);
            for neuron in 0..size {
                weights.gate.dequantise_row(neuron, &mut gate);
                weights.up.dequantise_row(neuron, &mut up);
                for (row, input) in self.normed.chunks_exact(width).enumerate() {
                    let gated = dot(&gate, input);
                    activations[row * size + neuron] = silu(gated) * dot(&up, input);
                }
            }
            for output in 0..width {
                weights.down.dequantise_row(output, &mut down);
                for (row, activations) in activations.chunks_exact(size).enumerate() {
                    self.partial[row * width + output] += dot(&down, activations);
                }
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    // One sum after the other would wait for each addition; as many as this fill the processor's vectors.
    let mut sums = [0f32; 32];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<32>(), b.as_chunks::<32>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    for half in [16, 8, 4, 2, 1] {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut()
            .zip(high)
            .for_each(|(low, high)| *low += *high);
    }
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// One row's contribution of one group, in f64 and as the definition says.
    fn contribution(package: &Package, layer: usize, group: u32, input: &[f32]) -> Vec<f64> {
        let weights = package.group(layer, group as usize);
        let product = |matrix: &halo_models::Matrix<'_>, input: &[f64]| -> Vec<f64> {
            let values = matrix.dequantise();
            let rows = values.chunks(matrix.columns);
            rows.map(|row| row.iter().zip(input).map(|(w, x)| f64::from(*w) * x).sum())
                .collect()
        };
        let input: Vec<f64> = input.iter().copied().map(f64::from).collect();
        let gate = product(&weights.gate, &input).into_iter();
        let activations: Vec<f64> = gate
            .zip(product(&weights.up, &input))
            .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
            .collect();
        product(&weights.down, &activations)
    }

    #[test]
    fn groups_are_computed_as_the_definition_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny");
        let package = Package::open(Path::new(path)).unwrap();
        let width = package.shape().width;
        let groups = [0, 3, package.groups() as u32 - 1];
        for (rows, threads) in [(1, 1), (1, 2), (3, 2), (2, 7)] {
            let normed: Vec<f32> = (0..rows * width)
                .map(|i| ((i * 29) % 17) as f32 / 8.0 - 1.0)
                .collect();
            let mut partial = vec![0.25f32; rows * width];
            add(&package, (2, &groups), threads, &normed, &mut partial).unwrap();
            for (input, partial) in normed.chunks(width).zip(partial.chunks(width)) {
                let mut expected = vec![0.25; width];
                for group in groups {
                    let own = contribution(&package, 2, group, input);
                    expected.iter_mut().zip(own).for_each(|(sum, v)| *sum += v);
                }
                let greatest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
                for (got, expected) in partial.iter().zip(expected) {
                    assert!((f64::from(*got) - expected).abs() <= 1e-5 * greatest);
                }
            }
        }
    }
}
