//! `predictor-faulty`: a predictor that misbehaves as it is told. For tests only.
//!
//! | setting | meaning |
//! | --- | --- |
//! | `fault` | `trap`, `loop`, `slow`, `memory`, `length`, `nan` or `negative` |
//! | `after` | so many good calls first; default 0 |

mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "predictor-policy", path: "../../../wit" });
    use super::Faulty;
    export!(Faulty);
}

use std::sync::Mutex;

use bindings::exports::halo::policy::predictor::{Guest, Model, Setting, Tensor};

#[derive(Clone, Copy)]
enum Fault {
    Trap,
    Loop,
    Slow,
    Memory,
    Length,
    Nan,
    Negative,
}

struct Plan {
    fault: Option<Fault>,
    good_calls: u64,
    groups: u32,
}

static PLAN: Mutex<Plan> = Mutex::new(Plan {
    fault: None,
    good_calls: 0,
    groups: 0,
});

struct Faulty;

impl Guest for Faulty {
    fn init(model: Model, _parameters: Vec<Tensor>, settings: Vec<Setting>) -> Result<(), String> {
        let mut plan = PLAN.lock().map_err(|error| error.to_string())?;
        plan.groups = model.groups;
        for Setting { key, value } in settings {
            match key.as_str() {
                "fault" => plan.fault = Some(fault(&value)?),
                "after" => {
                    plan.good_calls = value.parse().map_err(|_| format!("after = {value:?}"))?
                }
                _ => return Err(format!("unknown setting {key:?}")),
            }
        }
        Ok(())
    }

    fn score(_layer: u32, _hidden: Vec<f32>) -> Vec<f32> {
        let mut plan = PLAN.lock().expect("one thread");
        // Rising scores, which the fallback's never are.
        let mut scores: Vec<f32> = (0..plan.groups).map(|group| (group + 1) as f32).collect();
        if plan.good_calls > 0 {
            plan.good_calls -= 1;
            return scores;
        }
        match plan.fault {
            None => {}
            Some(Fault::Trap) => panic!("told to"),
            Some(Fault::Loop) => loop {
                std::hint::black_box(());
            },
            Some(Fault::Slow) => {
                // It answers well, after minutes.
                for step in 0..1u64 << 38 {
                    std::hint::black_box(step);
                }
            }
            Some(Fault::Memory) => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(std::hint::black_box(Vec::<u8>::with_capacity(8 << 20)));
                }
            }
            Some(Fault::Length) => scores.push(1.0),
            Some(Fault::Nan) => scores[0] = f32::NAN,
            Some(Fault::Negative) => scores[0] = -1.0,
        }
        scores
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    Ok(match name {
        "trap" => Fault::Trap,
        "loop" => Fault::Loop,
        "slow" => Fault::Slow,
        "memory" => Fault::Memory,
        "length" => Fault::Length,
        "nan" => Fault::Nan,
        "negative" => Fault::Negative,
        _ => return Err(format!("unknown fault {name:?}")),
    })
}
