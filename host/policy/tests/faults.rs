//! Policies that misbehave: generation must not notice more than a built-in answer.

mod common;

use std::time::Duration;

use common::{
    GROUPS, builtin, devices, faulty, hidden, model, parameters, patient, round, settings,
};
use halo_policy::{
    Fault, FaultReason, Limits, Operation, PolicyError, PredictorSlot, Sandbox, SchedulerSlot,
    builtin as rules,
};

/// Loops are waited for, so not long; a good call needs a thousandth of it.
fn impatient() -> Sandbox {
    patient(Duration::from_millis(500))
}

fn is_expected(name: &str, reason: &FaultReason) -> bool {
    match name {
        "trap" => matches!(reason, FaultReason::Trap(_)),
        "loop" | "slow" => matches!(reason, FaultReason::Deadline(_)),
        "memory" => matches!(reason, FaultReason::Memory(_)),
        "length" => matches!(reason, FaultReason::Shape { .. }),
        "nan" => matches!(reason, FaultReason::NotFinite { .. }),
        "range" | "overcommit" | "negative" => matches!(reason, FaultReason::OutOfRange(_)),
        _ => false,
    }
}

/// Calls until the slot gives up on its policy. The faulty ones do one good call after each new start, so that there are
/// good calls among the faults.
fn faults_until_rollback(
    call: impl Fn() -> Option<Fault>,
    rollbacks: impl Fn() -> u64,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for _ in 0..50 {
        faults.extend(call());
        if rollbacks() == 1 {
            return faults;
        }
    }
    panic!("no rollback after {faults:?}");
}

#[test]
fn every_fault_of_a_placement_falls_back_and_rolls_back() {
    let sandbox = impatient();
    for name in ["trap", "loop", "memory", "length", "range", "overcommit"] {
        let slot = SchedulerSlot::new(&sandbox);
        slot.activate(&builtin(&sandbox, "scheduler-even"), &[])
            .unwrap();
        let even = slot.place(&model(), &devices(), None).value;
        let given = settings(&[("fault", name), ("after", "1"), ("in", "place")]);
        slot.activate(&faulty(&sandbox, "scheduler-faulty"), &given)
            .unwrap();

        let call = || {
            let answer = slot.place(&model(), &devices(), None);
            if answer.fault.is_some() {
                assert_eq!(answer.value, rules::place(&model(), &devices()), "{name}");
            }
            answer.fault
        };
        let faults = faults_until_rollback(call, || slot.active().rollbacks);
        assert_eq!(faults.len(), 3, "{name}");
        for fault in &faults {
            assert_eq!(fault.operation, Operation::Place);
            assert_eq!(fault.policy, "scheduler-faulty");
            assert!(is_expected(name, &fault.reason), "{name}: {fault}");
        }
        // Back on the one before, which works as before.
        let active = slot.active();
        assert_eq!((active.name.as_str(), active.faults), ("scheduler-even", 3));
        let answer = slot.place(&model(), &devices(), None);
        assert_eq!((answer.value, answer.fault), (even, None), "{name}");
    }
}

#[test]
fn every_fault_of_a_verdict_falls_back_and_rolls_back() {
    let sandbox = impatient();
    for name in ["trap", "loop", "slow", "memory", "length", "range"] {
        let slot = SchedulerSlot::new(&sandbox);
        let given = settings(&[("fault", name), ("after", "1"), ("in", "admit")]);
        slot.activate(&faulty(&sandbox, "scheduler-faulty"), &given)
            .unwrap();
        let call = || {
            let answer = slot.admit(&round());
            if answer.fault.is_some() {
                assert_eq!(answer.value, rules::admit(&round()), "{name}");
            } else {
                assert_eq!(answer.value.patience_us, 4321, "{name}");
            }
            answer.fault
        };
        let faults = faults_until_rollback(call, || slot.active().rollbacks);
        assert_eq!(faults.len(), 3, "{name}");
        assert!(
            faults.iter().all(|fault| is_expected(name, &fault.reason)),
            "{faults:?}"
        );
        // There was none before, so the built-in rule.
        assert_eq!(
            (slot.active().name.as_str(), slot.active().digest),
            (rules::NAME, None)
        );
        assert_eq!(slot.admit(&round()).fault, None);
    }
}

#[test]
fn every_fault_of_a_score_falls_back_and_rolls_back() {
    let sandbox = impatient();
    for name in [
        "trap", "loop", "slow", "memory", "length", "nan", "negative",
    ] {
        let slot = PredictorSlot::new(&sandbox, model(), parameters());
        slot.activate(&builtin(&sandbox, "predictor-static"), &[])
            .unwrap();
        let given = settings(&[("fault", name), ("after", "1")]);
        slot.activate(&faulty(&sandbox, "predictor-faulty"), &given)
            .unwrap();
        let calibrated = &model().importance[..GROUPS as usize];
        let call = || {
            let mut scores = vec![9.0; 3];
            let fault = slot.score(0, &hidden(), &mut scores);
            assert_eq!(scores.len(), GROUPS as usize);
            for (score, mean) in scores.iter().zip(calibrated) {
                // The good calls' scores happen to have the calibration's proportions too.
                assert!((score - mean).abs() < 1e-6, "{name}: {scores:?}");
            }
            fault
        };
        let faults = faults_until_rollback(call, || slot.active().rollbacks);
        assert_eq!(faults.len(), 3, "{name}");
        assert!(
            faults.iter().all(|fault| is_expected(name, &fault.reason)),
            "{faults:?}"
        );
        assert_eq!(slot.active().name, "predictor-static");
        let mut scores = Vec::new();
        assert_eq!(slot.score(0, &hidden(), &mut scores), None);
    }
}

#[test]
fn a_policy_that_fails_its_trial_is_not_put_in_force() {
    let sandbox = impatient();
    let slot = SchedulerSlot::new(&sandbox);
    slot.activate(&builtin(&sandbox, "scheduler-even"), &[])
        .unwrap();
    for name in ["trap", "loop", "memory", "length", "range"] {
        let error = slot
            .activate(
                &faulty(&sandbox, "scheduler-faulty"),
                &settings(&[("fault", name)]),
            )
            .unwrap_err();
        let PolicyError::Trial(fault) = error else {
            panic!("{error}")
        };
        assert!(is_expected(name, &fault.reason), "{name}: {fault}");
    }
    // Faults of a trial are not faults of generation.
    let active = slot.active();
    assert_eq!(
        (active.name.as_str(), active.faults, active.rollbacks),
        ("scheduler-even", 0, 0)
    );
}

#[test]
fn memory_is_what_the_limits_say() {
    let limits = Limits {
        memory: 1 << 20,
        ..Limits::default()
    };
    let sandbox = Sandbox::new(limits).unwrap();
    let slot = PredictorSlot::new(&sandbox, model(), parameters());
    let error = slot
        .activate(&builtin(&sandbox, "predictor-static"), &[])
        .unwrap_err();
    // The module alone needs a little more than 1 MiB, for its stack.
    let PolicyError::Trial(fault) = error else {
        panic!("{error}")
    };
    assert_eq!(fault.reason, FaultReason::Memory(1 << 20));
    assert_eq!(
        fault.to_string(),
        "policy \"predictor-static\": init needed more than its 1 MiB of memory"
    );
}

#[test]
fn answers_larger_than_allowed_are_refused() {
    let limits = Limits {
        message: 32,
        ..Limits::default()
    };
    let sandbox = Sandbox::new(limits).unwrap();
    let slot = SchedulerSlot::new(&sandbox);
    // Its trial's placement of 16 groups is 64 bytes.
    let error = slot
        .activate(&builtin(&sandbox, "scheduler-even"), &[])
        .unwrap_err();
    assert!(error.to_string().contains("place trapped"), "{error}");
}

#[test]
fn malformed_questions_are_answered_and_not_held_against_the_policy() {
    let sandbox = impatient();
    let slot = SchedulerSlot::new(&sandbox);
    slot.activate(&builtin(&sandbox, "scheduler-halo"), &[])
        .unwrap();
    let mut leaderless = devices();
    leaderless[0].leader = false;
    let mut nowhere = round();
    nowhere.debtors[0].share = f32::NAN;
    for _ in 0..5 {
        let answer = slot.place(&model(), &leaderless, None);
        assert!(matches!(
            answer.fault.unwrap().reason,
            FaultReason::Question(_)
        ));
        assert_eq!(answer.value.owners.len(), model().total_groups());
        let answer = slot.admit(&nowhere);
        assert!(matches!(
            answer.fault.unwrap().reason,
            FaultReason::Question(_)
        ));
        assert_eq!(answer.value.orders.len(), 3);
    }
    assert_eq!(slot.active().rollbacks, 0);
    assert_eq!(slot.place(&model(), &devices(), None).fault, None);

    let slot = PredictorSlot::new(&sandbox, model(), parameters());
    slot.activate(&builtin(&sandbox, "predictor-static"), &[])
        .unwrap();
    for (layer, hidden) in [(99, hidden()), (0, vec![0.0; 3])] {
        let mut scores = Vec::new();
        let fault = slot.score(layer, &hidden, &mut scores).unwrap();
        assert!(matches!(fault.reason, FaultReason::Question(_)), "{fault}");
        assert_eq!(scores.len(), GROUPS as usize);
    }
}
