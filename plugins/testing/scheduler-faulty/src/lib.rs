//! `scheduler-faulty`: a scheduler that misbehaves as it is told. For tests only.
//!
//! | setting | meaning |
//! | --- | --- |
//! | `fault` | `trap`, `loop`, `slow`, `memory`, `length`, `range`; of `place` only `overcommit`, and `unwise`: a placement that there is is turned around |
//! | `after` | so many good calls first; default 0 |
//! | `in` | `place` or `admit`: only there; default both |

mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "scheduler-policy", path: "../../../wit" });
    use super::Faulty;
    export!(Faulty);
}

use std::sync::Mutex;

use bindings::exports::halo::policy::scheduler::{Device, Guest, Order, Placement, Round, Verdict};
use bindings::halo::policy::types::{Model, Setting};

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Trap,
    Loop,
    Slow,
    Memory,
    Length,
    Range,
    Overcommit,
    Unwise,
}

struct Plan {
    fault: Option<Fault>,
    good_calls: u64,
    place: bool,
    admit: bool,
}

static PLAN: Mutex<Plan> = Mutex::new(Plan {
    fault: None,
    good_calls: 0,
    place: true,
    admit: true,
});

struct Faulty;

impl Guest for Faulty {
    fn init(settings: Vec<Setting>) -> Result<(), String> {
        let mut plan = PLAN.lock().map_err(|error| error.to_string())?;
        for Setting { key, value } in settings {
            match (key.as_str(), value.as_str()) {
                ("fault", name) => plan.fault = Some(fault(name)?),
                ("after", count) => {
                    plan.good_calls = count.parse().map_err(|_| format!("after = {count:?}"))?;
                }
                ("in", "place") => plan.admit = false,
                ("in", "admit") => plan.place = false,
                _ => return Err(format!("unknown setting {key} = {value:?}")),
            }
        }
        Ok(())
    }

    fn place(
        model: Model,
        devices: Vec<Device>,
        current: Option<Placement>,
    ) -> Result<Placement, String> {
        let mut owners = first_fit(&model, &devices)?;
        match due(|plan| plan.place) {
            Some(Fault::Length) => _ = owners.pop(),
            Some(Fault::Range) => owners[0] = devices.len() as u32,
            Some(Fault::Overcommit) => {
                let smallest = (0..devices.len())
                    .min_by_key(|&i| devices[i].memory)
                    .unwrap_or(0);
                owners.fill(smallest as u32);
            }
            Some(Fault::Unwise) if current.is_some() => {
                let last_first: Vec<Device> = devices.iter().rev().cloned().collect();
                let last = devices.len() as u32 - 1;
                owners = first_fit(&model, &last_first)?;
                owners.iter_mut().for_each(|owner| *owner = last - *owner);
            }
            _ => {}
        }
        Ok(Placement {
            owners,
            standbys: Vec::new(),
            token_us: 1,
        })
    }

    fn admit(round: Round) -> Verdict {
        let mut orders = vec![
            Order {
                needed: true,
                copies: 1
            };
            round.debtors.len()
        ];
        match due(|plan| plan.admit) {
            Some(Fault::Length) => orders.push(Order {
                needed: true,
                copies: 1,
            }),
            Some(Fault::Range) => orders.iter_mut().for_each(|order| order.copies = 9),
            _ => {}
        }
        Verdict {
            orders,
            patience_us: 4321,
        }
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    Ok(match name {
        "trap" => Fault::Trap,
        "loop" => Fault::Loop,
        "slow" => Fault::Slow,
        "memory" => Fault::Memory,
        "length" => Fault::Length,
        "range" => Fault::Range,
        "overcommit" => Fault::Overcommit,
        "unwise" => Fault::Unwise,
        "nan" => {
            return Err("a scheduler answers with whole numbers only, so not with a NaN".into());
        }
        _ => return Err(format!("unknown fault {name:?}")),
    })
}

/// The fault that this call is to have, if any; those that give no result happen here.
fn due(applies: impl Fn(&Plan) -> bool) -> Option<Fault> {
    let mut plan = PLAN.lock().expect("one thread");
    if !applies(&plan) {
        return None;
    }
    if plan.good_calls > 0 {
        plan.good_calls -= 1;
        return None;
    }
    match plan.fault? {
        Fault::Trap => panic!("told to"),
        Fault::Loop => loop {
            std::hint::black_box(());
        },
        Fault::Memory => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(std::hint::black_box(Vec::<u8>::with_capacity(8 << 20)));
            }
        }
        Fault::Slow => {
            // It would answer well, after minutes.
            for step in 0..1u64 << 38 {
                std::hint::black_box(step);
            }
            None
        }
        other => Some(other),
    }
}

/// Good enough a placement: each group to the first device with memory left.
fn first_fit(model: &Model, devices: &[Device]) -> Result<Vec<u32>, String> {
    let rooms = devices.iter().enumerate().flat_map(|(index, device)| {
        let room = device
            .memory
            .checked_div(model.group_bytes)
            .unwrap_or(u64::MAX);
        std::iter::repeat_n(index as u32, room.min(u64::from(u32::MAX)) as usize)
    });
    let total = model.layers as usize * model.groups as usize;
    let owners: Vec<u32> = rooms.take(total).collect();
    if owners.len() == total {
        Ok(owners)
    } else {
        Err("too little memory".into())
    }
}
