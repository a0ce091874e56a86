//! Exchanging policies while they are being called.

mod common;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use common::{builtin, devices, hidden, model, parameters, round, sandbox};
use halo_policy::{PredictorSlot, SchedulerSlot};

const SWAPS: usize = 200;

/// Calls `call` on two threads, which returns which of the two policies answered, while `swap` runs on this one. Both
/// policies must be seen.
fn swap_under_calls(call: impl Fn() -> usize + Sync, swap: impl Fn(usize)) {
    let done = AtomicBool::new(false);
    let seen = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        let callers = [(); 2].map(|()| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    seen[call()].fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for round in 0..SWAPS {
            swap(round % 2);
            // Until this policy has answered at least once more.
            let before = seen[round % 2].load(Ordering::Relaxed);
            while seen[round % 2].load(Ordering::Relaxed) == before {
                if callers.iter().any(|caller| caller.is_finished()) {
                    // It panicked, which the end of the scope passes on.
                    done.store(true, Ordering::Release);
                    return;
                }
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
    });
    assert!(
        seen.iter()
            .all(|count| count.load(Ordering::Relaxed) >= SWAPS / 2)
    );
}

#[test]
fn every_verdict_is_from_one_scheduler_or_the_other() {
    let sandbox = sandbox();
    let components = ["scheduler-even", "scheduler-halo"].map(|name| builtin(&sandbox, name));
    let slot = SchedulerSlot::new(&sandbox);
    let expected = components.each_ref().map(|component| {
        slot.activate(component, &[]).unwrap();
        slot.admit(&round()).value
    });
    assert_ne!(expected[0], expected[1]);
    swap_under_calls(
        || {
            let answer = slot.admit(&round());
            assert_eq!(answer.fault, None);
            expected
                .iter()
                .position(|verdict| *verdict == answer.value)
                .unwrap()
        },
        |index| {
            slot.activate(&components[index], &[]).unwrap();
            assert_eq!(slot.active().name, components[index].name());
        },
    );
    assert_eq!((slot.active().faults, slot.active().rollbacks), (0, 0));
}

#[test]
fn every_placement_is_from_one_scheduler_or_the_other() {
    let sandbox = sandbox();
    let components = ["scheduler-even", "scheduler-halo"].map(|name| builtin(&sandbox, name));
    let slot = SchedulerSlot::new(&sandbox);
    let expected = components.each_ref().map(|component| {
        slot.activate(component, &[]).unwrap();
        slot.place(&model(), &devices(), None).value
    });
    assert_ne!(expected[0], expected[1]);
    swap_under_calls(
        || {
            let answer = slot.place(&model(), &devices(), None);
            assert_eq!(answer.fault, None);
            expected
                .iter()
                .position(|placement| *placement == answer.value)
                .unwrap()
        },
        |index| slot.activate(&components[index], &[]).unwrap(),
    );
}

#[test]
fn every_score_is_from_one_predictor_or_the_other() {
    let sandbox = sandbox();
    let components = ["predictor-static", "predictor-probe"].map(|name| builtin(&sandbox, name));
    let slot = PredictorSlot::new(&sandbox, model(), parameters());
    let score = || {
        let mut scores = Vec::new();
        assert_eq!(slot.score(1, &hidden(), &mut scores), None);
        scores
    };
    let expected = components.each_ref().map(|component| {
        slot.activate(component, &[]).unwrap();
        score()
    });
    assert_ne!(expected[0], expected[1]);
    swap_under_calls(
        || {
            let scores = score();
            expected
                .iter()
                .position(|expected| *expected == scores)
                .unwrap()
        },
        |index| slot.activate(&components[index], &[]).unwrap(),
    );
}

#[test]
fn going_back_to_the_built_in_rule_is_a_swap_too() {
    let sandbox = sandbox();
    let slot = SchedulerSlot::new(&sandbox);
    slot.activate(&builtin(&sandbox, "scheduler-halo"), &[])
        .unwrap();
    assert_eq!(slot.active().name, "scheduler-halo");
    slot.deactivate(halo_policy::Cause::Activated);
    assert_eq!(slot.active().name, halo_policy::builtin::NAME);
    assert_eq!(
        slot.admit(&round()).value,
        halo_policy::builtin::admit(&round())
    );
}
