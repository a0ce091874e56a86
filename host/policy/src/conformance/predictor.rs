//! What a predictor is asked.

use crate::{Component, FaultReason, Model, PolicyError, PredictorSlot, Sandbox, Setting, Tensor};

use super::{Case, GROUPS, LAYERS, MANY, WIDTH, case, model};

/// Of the made-up probe.
const RANK: u32 = 4;

/// # Errors
///
/// It does not begin, or fails its first trial.
pub(super) fn cases(
    sandbox: &Sandbox,
    component: &Component,
    settings: &[Setting],
) -> Result<Vec<Case>, PolicyError> {
    predictor(sandbox, true).try_out(component, settings)?;
    let start = |calibrated| {
        let slot = predictor(sandbox, calibrated);
        match slot.activate(component, settings) {
            Ok(()) => Ok(Some(slot)),
            // It may need a calibration; what it must not do is trap without one.
            Err(PolicyError::Trial(fault))
                if !calibrated && matches!(fault.reason, FaultReason::Refused(_)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    };
    let ask = |calibrated, hidden: &[f32], calls: u32| {
        let Some(slot) = start(calibrated)? else {
            return Ok(());
        };
        (0..calls).try_for_each(|call| score(&slot, call % LAYERS, hidden))
    };
    let mut cases = Vec::new();
    for (name, calibrated, hidden) in states() {
        cases.push(case(name, ask(calibrated, &hidden, LAYERS).err()));
    }
    let many = ask(true, &usual_state(), MANY);
    cases.push(case("answers thousands of times", many.err()));
    Ok(cases)
}

fn score(slot: &PredictorSlot, layer: u32, hidden: &[f32]) -> Result<(), String> {
    let fault = slot.score(layer, hidden, &mut Vec::new());
    fault.map_or(Ok(()), |fault| Err(fault.to_string()))
}

fn predictor(sandbox: &Sandbox, calibrated: bool) -> PredictorSlot {
    let model = model(LAYERS, GROUPS);
    if calibrated {
        return PredictorSlot::new(sandbox, model, parameters());
    }
    let model = Model {
        importance: Vec::new(),
        ..model
    };
    PredictorSlot::new(sandbox, model, Vec::new())
}

/// The arrays that `halo model calibrate` makes.
fn parameters() -> Vec<Tensor> {
    let tensor = |name: &str, shape: &[u32]| Tensor {
        name: name.into(),
        shape: shape.to_vec(),
        values: (0..shape.iter().product())
            .map(|i: u32| (i as f32 * 0.7).sin().abs() * 0.1)
            .collect(),
    };
    vec![
        tensor("mean", &[LAYERS, GROUPS]),
        tensor("probe.bias", &[LAYERS, GROUPS]),
        tensor("probe.down", &[LAYERS, RANK, WIDTH]),
        tensor("probe.up", &[LAYERS, GROUPS, RANK]),
    ]
}

fn usual_state() -> Vec<f32> {
    (0..WIDTH).map(|i| (i as f32 * 0.3).cos()).collect()
}

fn states() -> Vec<(&'static str, bool, Vec<f32>)> {
    let scaled = |by: f32| usual_state().iter().map(|value| value * by).collect();
    vec![
        ("scores every layer", true, usual_state()),
        ("scores zeros", true, scaled(0.0)),
        ("scores tiny values", true, scaled(1e-20)),
        ("scores large values", true, scaled(1e4)),
        (
            "scores, or says no, without a calibration",
            false,
            usual_state(),
        ),
    ]
}
