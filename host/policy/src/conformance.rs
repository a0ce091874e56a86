//! What the contract asks of a policy, put to it case by case.

mod predictor;
mod scheduler;

use serde::Serialize;

use crate::{Component, Kind, Model, Sandbox, Setting};

/// Calls in a row, in which a policy that forgets to free its memory runs out of it.
const MANY: u32 = 5_000;

/// The model that questions are about, where they are not about another.
const LAYERS: u32 = 3;
const WIDTH: u32 = 64;
const GROUPS: u32 = 8;
const GROUP_BYTES: u64 = 1 << 20;

/// One thing that every policy must be able to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// What went wrong, if anything.
    pub fault: Option<String>,
}

/// Puts to a policy what the contract allows to be asked: large and small clusters, full memories, lost packets, a model that
/// is not calibrated. Each case has an instance of its own.
pub fn conformance(sandbox: &Sandbox, component: &Component, settings: &[Setting]) -> Vec<Case> {
    let cases = match component.kind() {
        Kind::Scheduler => scheduler::cases(sandbox, component, settings),
        Kind::Predictor => predictor::cases(sandbox, component, settings),
    };
    let begins = "begins, and passes a first trial";
    match cases {
        Ok(cases) => [case(begins, None::<String>)]
            .into_iter()
            .chain(cases)
            .collect(),
        Err(error) => vec![case(begins, Some(error))],
    }
}

fn case(name: &'static str, fault: Option<impl ToString>) -> Case {
    Case {
        name,
        fault: fault.map(|fault| fault.to_string()),
    }
}

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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    use crate::{Limits, PolicyStore};

    pub(crate) fn component(sandbox: &Sandbox, name: &str) -> Component {
        let stored = PolicyStore::builtin().get(name).unwrap();
        sandbox.compile(name, &stored.bytes).unwrap()
    }

    /// Whatever else the machine does.
    pub(crate) fn patient() -> Sandbox {
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
}
