//! A package as policies see it.

use halo_models::{Calibration, Package, PackageError};
use halo_policy::{Model, Tensor};

/// A package's model as policies see it, and the arrays of its calibration, which predictors are given.
///
/// # Errors
///
/// The calibration cannot be read.
pub fn described(package: &Package) -> Result<(Model, Vec<Tensor>), PackageError> {
    let calibration = package.calibration()?;
    Ok((
        model(package, calibration.as_ref()),
        parameters(calibration.as_ref()),
    ))
}

/// How much each group matters on average, `[layers, groups]`: the calibration's word, if it has one that fits the model.
pub(crate) fn importance<'a>(
    package: &Package,
    calibration: Option<&'a Calibration>,
) -> Option<&'a [f32]> {
    let mean = calibration?.arrays.get("mean")?;
    let fits = mean.shape == [package.shape().layers, package.groups()];
    fits.then_some(&mean.values)
}

/// The model as policies see it. Work is counted in bytes of weights, since decoding is bound by reading them.
fn model(package: &Package, calibration: Option<&Calibration>) -> Model {
    let shape = package.shape();
    let group_bytes = package.group_bytes();
    // The engine computes an unquantised head in f32.
    let head = package.head();
    let head_bytes = match head.values {
        halo_models::Values::Quantised { .. } => head.bytes(),
        _ => 4 * head.rows as u64 * head.columns as u64,
    };
    let groups = package.groups();
    let importance = importance(package, calibration).map_or_else(Vec::new, |mean| {
        mean.chunks(groups)
            .flat_map(|layer| {
                let sum: f32 = layer.iter().sum();
                layer.iter().map(move |v| {
                    if sum > 0.0 {
                        v / sum
                    } else {
                        1.0 / layer.len() as f32
                    }
                })
            })
            .collect()
    });
    Model {
        layers: shape.layers as u32,
        width: shape.width as u32,
        groups: groups as u32,
        group_bytes,
        attention_cost: package.attention_bytes() as f32 / group_bytes as f32,
        head_cost: head_bytes as f32 / group_bytes as f32,
        importance,
    }
}

fn parameters(calibration: Option<&Calibration>) -> Vec<Tensor> {
    let arrays = calibration.into_iter().flat_map(|c| &c.arrays);
    arrays
        .map(|(name, array)| Tensor {
            name: name.clone(),
            shape: array.shape.iter().map(|&n| n as u32).collect(),
            values: array.values.clone(),
        })
        .collect()
}
