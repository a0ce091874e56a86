//! `predictor-probe`: a low-rank linear probe on the hidden state.
//!
//! For layer `l`, from the residual stream `x` one round earlier:
//!
//! ```text
//! x̂ = x / sqrt(mean(x²) + 1e-6)
//! scores = exp(bias[l] + up[l] · (down[l] · x̂))
//! ```
//!
//! so the probe predicts the logarithm of the norm of each group's contribution. Parameters, from calibration:
//! `probe.down` `[layers, rank, width]`, `probe.up` `[layers, groups, rank]`, `probe.bias` `[layers, groups]`. It has no
//! settings.

mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "predictor-policy", path: "../../wit" });
    use super::ProbePolicy;
    export!(ProbePolicy);
}
mod probe;

use std::sync::OnceLock;

use bindings::exports::halo::policy::predictor::{Guest, Model, Setting, Tensor};
use probe::Probe;

static PROBE: OnceLock<Probe> = OnceLock::new();

struct ProbePolicy;

impl Guest for ProbePolicy {
    fn init(model: Model, parameters: Vec<Tensor>, settings: Vec<Setting>) -> Result<(), String> {
        if let Some(setting) = settings.first() {
            return Err(format!(
                "predictor-probe has no settings, so no {:?}",
                setting.key
            ));
        }
        let probe = Probe::new(&model, parameters)?;
        PROBE
            .set(probe)
            .map_err(|_| "init was called twice".to_owned())
    }

    fn score(layer: u32, hidden: Vec<f32>) -> Vec<f32> {
        PROBE
            .get()
            .expect("init comes before score")
            .score(layer as usize, hidden)
    }
}
