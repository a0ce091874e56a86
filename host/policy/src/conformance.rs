//! What the contract asks of a policy, put to it case by case, and questions that were asked before, put to it again.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{
    Component, Debtor, Device, FaultReason, Kind, Model, Operation, Placement, PolicyError,
    PredictorSlot, Recording, Round, Sandbox, SchedulerSlot, Setting, Tensor, builtin,
};

/// Calls in a row, in which a policy that forgets to free its memory runs out of it.
const MANY: u32 = 5_000;

/// One thing that every policy must be able to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// What went wrong, if anything.
    pub fault: Option<String>,
}

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

/// Puts to a policy what the contract allows to be asked: large and small clusters, full memories, lost packets, a model that
/// is not calibrated. Each case has an instance of its own.
pub fn conformance(sandbox: &Sandbox, component: &Component, settings: &[Setting]) -> Vec<Case> {
    let begins = match component.kind() {
        Kind::Scheduler => SchedulerSlot::new(sandbox).try_out(component, settings),
        Kind::Predictor => predictor(sandbox, true).try_out(component, settings),
    };
    if let Err(error) = begins {
        return vec![case("begins, and passes a first trial", Some(error))];
    }
    let mut cases = vec![case("begins, and passes a first trial", None::<String>)];
    match component.kind() {
        Kind::Scheduler => {
            let start = || {
                let slot = SchedulerSlot::new(sandbox);
                slot.activate(component, settings)
                    .map(|()| slot)
                    .map_err(|error| error.to_string())
            };
            cases.extend(placements().into_iter().map(|(name, question)| {
                case(name, start().and_then(|slot| place(&slot, question)).err())
            }));
            cases.extend(rounds().into_iter().map(|(name, round)| {
                case(name, start().and_then(|slot| admit(&slot, &round)).err())
            }));
            let many = || {
                let slot = start()?;
                (0..MANY).try_for_each(|layer| {
                    admit(
                        &slot,
                        &Round {
                            layer,
                            ..usual_round()
                        },
                    )
                })
            };
            cases.push(case("answers thousands of times", many().err()));
        }
        Kind::Predictor => {
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
            cases.extend(states().into_iter().map(|(name, calibrated, hidden)| {
                let all_layers = |slot: Option<PredictorSlot>| {
                    slot.map_or(Ok(()), |slot| {
                        (0..LAYERS).try_for_each(|layer| score(&slot, layer, &hidden))
                    })
                };
                case(name, start(calibrated).and_then(all_layers).err())
            }));
            let many = || {
                let slot = start(true)?;
                let hidden = usual_state();
                slot.map_or(Ok(()), |slot| {
                    (0..MANY).try_for_each(|call| score(&slot, call % LAYERS, &hidden))
                })
            };
            cases.push(case("answers thousands of times", many().err()));
        }
    }
    cases
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

fn case(name: &'static str, fault: Option<impl ToString>) -> Case {
    Case {
        name,
        fault: fault.map(|fault| fault.to_string()),
    }
}

/// A question for a placement, and whether there is an answer.
struct Question {
    model: Model,
    devices: Vec<Device>,
    current: Option<Placement>,
    fits: bool,
}

fn place(slot: &SchedulerSlot, question: Question) -> Result<(), String> {
    let Question {
        model,
        devices,
        current,
        fits,
    } = question;
    match slot.place(&model, &devices, current.as_ref()).fault {
        None => Ok(()),
        Some(fault) if !fits && matches!(fault.reason, FaultReason::Refused(_)) => Ok(()),
        Some(fault) => Err(fault.to_string()),
    }
}

fn admit(slot: &SchedulerSlot, round: &Round) -> Result<(), String> {
    let fault = slot.admit(round).fault;
    fault.map_or(Ok(()), |fault| Err(fault.to_string()))
}

fn score(slot: &PredictorSlot, layer: u32, hidden: &[f32]) -> Result<(), String> {
    let fault = slot.score(layer, hidden, &mut Vec::new());
    fault.map_or(Ok(()), |fault| Err(fault.to_string()))
}

const LAYERS: u32 = 3;
const WIDTH: u32 = 64;
const GROUPS: u32 = 8;
const RANK: u32 = 4;
const GROUP_BYTES: u64 = 1 << 20;

fn model(layers: u32, groups: u32) -> Model {
    let sum = (1..=groups).sum::<u32>() as f32;
    Model {
        layers,
        width: WIDTH,
        groups,
        group_bytes: GROUP_BYTES,
        attention_cost: 2.0,
        head_cost: 4.0,
        importance: (0..layers * groups)
            .map(|i| (i % groups + 1) as f32 / sum)
            .collect(),
    }
}

/// The first leads. All have memory for so many groups.
fn devices(count: u16, groups: u64) -> Vec<Device> {
    let device = |index: u16| Device {
        name: format!("device-{index}"),
        leader: index == 0,
        speed: 1e4 / f32::from(1 + index % 4),
        memory: groups * GROUP_BYTES,
        delay_us: 300 * u32::from(index.min(8)),
        spread_us: 50 * u32::from(index.min(8)),
        loss: 0.02 * f32::from(index % 4),
    };
    (0..count).map(device).collect()
}

fn placements() -> Vec<(&'static str, Question)> {
    let usual = || Question {
        model: model(LAYERS, GROUPS),
        devices: devices(4, 24),
        current: None,
        fits: true,
    };
    let with = |devices: Vec<Device>| Question { devices, ..usual() };
    let on_their_last_legs = devices(4, 24).into_iter().map(|device| Device {
        speed: if device.leader { 1.0 } else { 0.0 },
        loss: if device.leader { 0.0 } else { 1.0 },
        delay_us: 1_000_000,
        ..device
    });
    let current = builtin::place(&model(LAYERS, GROUPS), &devices(4, 24));
    vec![
        ("places all groups on a leader alone", with(devices(1, 24))),
        ("places over unequal devices", usual()),
        ("keeps to memory that is just enough", with(devices(4, 6))),
        (
            "places where the leader has no memory",
            with(
                devices(4, 24)
                    .into_iter()
                    .map(|d| Device {
                        memory: if d.leader { 0 } else { d.memory },
                        ..d
                    })
                    .collect(),
            ),
        ),
        (
            "says so when the memory does not suffice",
            Question {
                fits: false,
                ..with(devices(4, 5))
            },
        ),
        (
            "goes on from a placement in force",
            Question {
                current: Some(current),
                ..usual()
            },
        ),
        (
            "places a model that is not calibrated",
            Question {
                model: Model {
                    importance: Vec::new(),
                    ..model(LAYERS, GROUPS)
                },
                ..usual()
            },
        ),
        (
            "places one group",
            Question {
                model: model(1, 1),
                ..usual()
            },
        ),
        (
            "places 80 layers of 64 groups over 16 devices",
            Question {
                model: model(80, 64),
                ..with(devices(16, 80 * 64 / 8))
            },
        ),
        (
            "places over devices that stand still and lose everything",
            with(on_their_last_legs.collect()),
        ),
    ]
}

fn usual_round() -> Round {
    Round {
        layer: 1,
        rows: 1,
        debtors: debtors(3),
        concealed: 0.01,
    }
}

fn debtors(count: u32) -> Vec<Debtor> {
    let debtor = |device| Debtor {
        device,
        share: 0.5 / count as f32,
        expected_us: 900,
        spread_us: 100,
        loss: 0.05,
    };
    (1..=count).map(debtor).collect()
}

fn rounds() -> Vec<(&'static str, Round)> {
    let with = |debtors: Vec<Debtor>| Round {
        debtors,
        ..usual_round()
    };
    let each = |change: fn(Debtor) -> Debtor| with(debtors(3).into_iter().map(change).collect());
    vec![
        ("answers a round", usual_round()),
        ("answers a round in which nobody owes", with(Vec::new())),
        ("answers a round of 63 debtors", with(debtors(63))),
        (
            "answers a round of 1,024 rows",
            Round {
                rows: 1024,
                ..usual_round()
            },
        ),
        (
            "answers when every packet is lost",
            each(|debtor| Debtor {
                loss: 1.0,
                ..debtor
            }),
        ),
        (
            "answers when nothing is known of the debtors",
            each(|debtor| Debtor {
                share: 0.0,
                expected_us: 0,
                spread_us: 0,
                loss: 0.0,
                ..debtor
            }),
        ),
        (
            "answers when all are ten seconds late",
            each(|debtor| Debtor {
                expected_us: 10_000_000,
                spread_us: 5_000_000,
                ..debtor
            }),
        ),
        (
            "answers when all has been concealed",
            Round {
                concealed: 1.0,
                ..usual_round()
            },
        ),
    ]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, PolicyStore};

    fn component(sandbox: &Sandbox, name: &str) -> Component {
        let stored = PolicyStore::builtin().get(name).unwrap();
        sandbox.compile(name, &stored.bytes).unwrap()
    }

    /// Whatever else the machine does.
    fn patient() -> Sandbox {
        let time = Duration::from_secs(60);
        let limits = Limits {
            init: time,
            place: time,
            admit: time,
            score: time,
            ..Limits::default()
        };
        Sandbox::new(limits).unwrap()
    }

    #[test]
    fn the_policies_that_come_with_halo_conform() {
        let sandbox = patient();
        for entry in PolicyStore::builtin().list().unwrap() {
            let cases = conformance(&sandbox, &component(&sandbox, &entry.name), &[]);
            assert!(cases.len() > 5, "{}", entry.name);
            let failed: Vec<_> = cases.iter().filter(|case| case.fault.is_some()).collect();
            assert!(failed.is_empty(), "{}: {failed:?}", entry.name);
        }
    }

    #[test]
    fn every_fault_is_found() {
        let sandbox = Sandbox::new(Limits::default()).unwrap();
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../plugins/components/testing"
        );
        for (name, faults) in [
            (
                "scheduler-faulty",
                &["trap", "memory", "length", "range"][..],
            ),
            (
                "predictor-faulty",
                &["trap", "memory", "length", "nan", "negative"],
            ),
        ] {
            let bytes = std::fs::read(format!("{folder}/{name}.wasm")).unwrap();
            let faulty = sandbox.compile(name, &bytes).unwrap();
            for fault in faults {
                // Well for a trial and a while, and then not.
                for after in ["0", "200"] {
                    let settings = [Setting::new("fault", *fault), Setting::new("after", after)];
                    let cases = conformance(&sandbox, &faulty, &settings);
                    let failed = cases.iter().filter(|case| case.fault.is_some());
                    assert!(failed.count() > 0, "{name} {fault} after {after}");
                }
            }
        }
    }

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
