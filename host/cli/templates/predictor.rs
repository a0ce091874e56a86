//! `{name}`: a predictor for HALO. `wit/policy.wit` is the contract and explains every field.

mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "predictor-policy", path: "wit" });
    use super::Predictor;
    export!(Predictor);
}

use std::sync::OnceLock;

use bindings::exports::halo::policy::predictor::{Guest, Model, Setting, Tensor};

/// Told once, by `init`.
static MODEL: OnceLock<Model> = OnceLock::new();

struct Predictor;

impl Guest for Predictor {
    fn init(model: Model, _parameters: Vec<Tensor>, settings: Vec<Setting>) -> Result<(), String> {
        if let Some(setting) = settings.first() {
            return Err(format!("there is no setting {:?}", setting.key));
        }
        if model.importance.is_empty() {
            return Err("the package is not calibrated: `halo model calibrate` does that".into());
        }
        MODEL.set(model).map_err(|_| "init is called once".into())
    }

    fn score(layer: u32, _hidden: Vec<f32>) -> Vec<f32> {
        // What each group matters on average, whatever is being written.
        let model = MODEL.get().expect("init is called first");
        let groups = model.groups as usize;
        model.importance[layer as usize * groups..][..groups].to_vec()
    }
}
