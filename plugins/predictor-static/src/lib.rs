//! `predictor-static`: what a group contributed on average over the calibration text is what it is expected to contribute
//! now, whatever the input.
//!
//! Parameter `mean` `[layers, groups]`: the mean importance; without it, the model's own `importance` is used. It has no
//! settings.

mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "predictor-policy", path: "../../wit" });
    use super::Static;
    export!(Static);
}

use std::sync::OnceLock;

use bindings::exports::halo::policy::predictor::{Guest, Model, Setting, Tensor};

/// Every layer's scores.
static MEANS: OnceLock<Vec<Vec<f32>>> = OnceLock::new();

struct Static;

impl Guest for Static {
    fn init(model: Model, parameters: Vec<Tensor>, settings: Vec<Setting>) -> Result<(), String> {
        if let Some(setting) = settings.first() {
            return Err(format!(
                "predictor-static has no settings, so no {:?}",
                setting.key
            ));
        }
        let means = means(&model, &parameters)?;
        MEANS
            .set(means)
            .map_err(|_| "init was called twice".to_owned())
    }

    fn score(layer: u32, _hidden: Vec<f32>) -> Vec<f32> {
        let means = MEANS.get().expect("init comes before score");
        means[layer as usize].clone()
    }
}

fn means(model: &Model, parameters: &[Tensor]) -> Result<Vec<Vec<f32>>, String> {
    let expected = [model.layers, model.groups];
    let values = match parameters.iter().find(|tensor| tensor.name == "mean") {
        Some(tensor) if tensor.shape != expected => {
            return Err(format!(
                "parameter mean has shape {:?}, not {expected:?}",
                tensor.shape
            ));
        }
        Some(tensor) => &tensor.values,
        None if model.importance.is_empty() => {
            return Err(
                "the package is not calibrated: neither a parameter \"mean\" nor importances; \
                 run `halo model calibrate`"
                    .into(),
            );
        }
        None => &model.importance,
    };
    let count = model.layers as usize * model.groups as usize;
    if values.len() != count
        || values
            .iter()
            .any(|value| !value.is_finite() || *value < 0.0)
    {
        return Err(format!(
            "the means are not {count} finite and non-negative values"
        ));
    }
    Ok(values
        .chunks(model.groups.max(1) as usize)
        .map(<[f32]>::to_vec)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(importance: Vec<f32>) -> Model {
        Model {
            layers: 2,
            width: 4,
            groups: 2,
            group_bytes: 1,
            attention_cost: 1.0,
            head_cost: 1.0,
            importance,
        }
    }

    fn mean(shape: Vec<u32>, values: Vec<f32>) -> Tensor {
        Tensor {
            name: "mean".into(),
            shape,
            values,
        }
    }

    #[test]
    fn the_parameter_comes_before_the_importances() {
        let importance = vec![0.5, 0.5, 0.4, 0.6];
        let means_of =
            |parameters: &[Tensor]| means(&model(importance.clone()), parameters).unwrap();
        assert_eq!(means_of(&[]), [[0.5, 0.5], [0.4, 0.6]]);
        let given = mean(vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(means_of(&[given]), [[1.0, 2.0], [3.0, 4.0]]);
    }

    #[test]
    fn bad_calibration_is_refused() {
        let refused = |parameters: &[Tensor]| means(&model(vec![]), parameters).unwrap_err();
        assert!(refused(&[]).contains("not calibrated"));
        assert!(refused(&[mean(vec![4], vec![1.0; 4])]).contains("shape [4], not [2, 2]"));
        assert!(refused(&[mean(vec![2, 2], vec![1.0; 3])]).contains("not 4 finite"));
        assert!(refused(&[mean(vec![2, 2], vec![f32::NAN; 4])]).contains("not 4 finite"));
    }
}
