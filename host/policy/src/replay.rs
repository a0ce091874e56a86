//! Questions that were asked before, put to a policy again.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{
    Component, Kind, Operation, PolicyError, PredictorSlot, Recording, Sandbox, SchedulerSlot,
    Setting, Tensor,
};

/// How a policy answered recorded questions of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// What it was asked to do.
    pub operation: Operation,
    /// How often.
    pub calls: usize,
    /// What went wrong, each once.
    pub faults: Vec<String>,
    /// The median time of a call, in microseconds, with the passing of its question and answer.
    pub median_us: u64,
    /// The longest time of a call, in microseconds.
    pub longest_us: u64,
}

/// Puts recorded questions to a policy, `passes` times. `parameters` are the calibration of the recorded model.
///
/// # Errors
///
/// It cannot be put in force at all.
pub fn replay(
    sandbox: &Sandbox,
    component: &Component,
    settings: &[Setting],
    recording: &Recording,
    parameters: &[Tensor],
    passes: usize,
) -> Result<Vec<Replayed>, PolicyError> {
    match component.kind() {
        Kind::Scheduler => {
            let slot = SchedulerSlot::new(sandbox);
            slot.activate(component, settings)?;
            let places = recording.placing.iter().map(|placing| {
                timed(|| {
                    let current = placing.current.as_ref();
                    slot.place(&recording.model, &placing.devices, current)
                        .fault
                })
            });
            let places = replayed(Operation::Place, places.collect());
            let rounds = (0..passes).flat_map(|_| &recording.rounds);
            let rounds = rounds.map(|round| timed(|| slot.admit(round).fault));
            Ok(vec![places, replayed(Operation::Admit, rounds.collect())])
        }
        Kind::Predictor => {
            let model = recording.model.clone();
            let slot = PredictorSlot::new(sandbox, model, parameters.to_vec());
            slot.activate(component, settings)?;
            let mut scores = Vec::new();
            let states = (0..passes).flat_map(|_| &recording.states);
            let states =
                states.map(|state| timed(|| slot.score(state.layer, &state.hidden, &mut scores)));
            Ok(vec![replayed(Operation::Score, states.collect())])
        }
    }
}

fn timed<F: ToString>(call: impl FnOnce() -> Option<F>) -> (Duration, Option<String>) {
    let start = Instant::now();
    let fault = call();
    (start.elapsed(), fault.map(|fault| fault.to_string()))
}

fn replayed(operation: Operation, calls: Vec<(Duration, Option<String>)>) -> Replayed {
    let mut times: Vec<u64> = calls.iter().map(|(t, _)| t.as_micros() as u64).collect();
    times.sort_unstable();
    let mut faults = Vec::new();
    for fault in calls.into_iter().filter_map(|(_, fault)| fault) {
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }
    Replayed {
        operation,
        calls: times.len(),
        faults,
        median_us: times.get(times.len() / 2).copied().unwrap_or(0),
        longest_us: times.last().copied().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::tests::{component, patient};

    #[test]
    fn recorded_questions_are_answered_by_those_that_come_with_halo() {
        let sandbox = patient();
        let recording = Recording::sample();
        for (name, calls) in [
            ("scheduler-halo", 12),
            ("scheduler-even", 12),
            ("predictor-static", 12),
        ] {
            let component = component(&sandbox, name);
            let parameters = [Tensor {
                name: "mean".into(),
                shape: vec![recording.model.layers, recording.model.groups],
                values: recording.model.importance.clone(),
            }];
            let replayed = replay(&sandbox, &component, &[], &recording, &parameters, 2).unwrap();
            for Replayed { faults, .. } in &replayed {
                assert!(faults.is_empty(), "{name}: {faults:?}");
            }
            assert_eq!(replayed.last().map(|r| r.calls), Some(calls), "{name}");
        }
    }
}
