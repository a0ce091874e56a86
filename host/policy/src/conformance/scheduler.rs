//! What a scheduler is asked.

use crate::{
    Component, Debtor, Device, FaultReason, Model, Placement, PolicyError, Round, Sandbox,
    SchedulerSlot, Setting, builtin,
};

use super::{Case, GROUP_BYTES, GROUPS, LAYERS, MANY, case, model};

/// # Errors
///
/// It does not begin, or fails its first trial.
pub(super) fn cases(
    sandbox: &Sandbox,
    component: &Component,
    settings: &[Setting],
) -> Result<Vec<Case>, PolicyError> {
    SchedulerSlot::new(sandbox).try_out(component, settings)?;
    let start = || {
        let slot = SchedulerSlot::new(sandbox);
        slot.activate(component, settings)
            .map(|()| slot)
            .map_err(|error| error.to_string())
    };
    let mut cases = Vec::new();
    for (name, question) in placements() {
        let outcome = start().and_then(|slot| place(&slot, question));
        cases.push(case(name, outcome.err()));
    }
    for (name, round) in rounds() {
        let outcome = start().and_then(|slot| admit(&slot, &round));
        cases.push(case(name, outcome.err()));
    }
    let round = |layer| Round {
        layer,
        ..usual_round()
    };
    let many = start().and_then(|slot| (0..MANY).try_for_each(|layer| admit(&slot, &round(layer))));
    cases.push(case("answers thousands of times", many.err()));
    Ok(cases)
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
