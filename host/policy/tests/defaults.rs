//! The components that come with HALO, compiled as they are committed.

mod common;

use common::{
    GROUPS, LAYERS, builtin, devices, hidden, model, parameters, round, sandbox, settings,
};
use halo_policy::{
    FaultReason, Kind, Operation, Origin, PolicyError, PolicyStore, PredictorSlot, SchedulerSlot,
};

#[test]
fn each_is_what_its_name_says_and_imports_nothing_but_the_log() {
    let sandbox = sandbox();
    let entries = PolicyStore::builtin().list().unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "predictor-probe",
            "predictor-static",
            "scheduler-even",
            "scheduler-halo"
        ]
    );
    for entry in entries {
        assert_eq!(entry.origin, Origin::Builtin);
        let component = builtin(&sandbox, &entry.name);
        assert!(entry.name.starts_with(&component.kind().to_string()));
        let stored = PolicyStore::builtin().get(&entry.name).unwrap();
        assert_eq!(Kind::of(&stored.bytes), Some(component.kind()));
        assert_eq!(component.version(), "0.1.0");
        assert_eq!(component.digest(), entry.digest);
        assert_eq!(component.size(), entry.size);
        let foreign = |import: &&String| !import.starts_with("halo:policy/");
        assert_eq!(component.imports().iter().find(foreign), None);
    }
}

#[test]
fn even_gives_equal_shares() {
    let sandbox = sandbox();
    let slot = SchedulerSlot::new(&sandbox);
    slot.activate(&builtin(&sandbox, "scheduler-even"), &[])
        .unwrap();
    let answer = slot.place(&model(), &devices(), None);
    assert_eq!(answer.fault, None);
    for device in 0..4 {
        let held = answer
            .value
            .owners
            .iter()
            .filter(|&&owner| owner == device)
            .count();
        assert_eq!(held, 6);
    }
    let answer = slot.admit(&round());
    assert_eq!(answer.fault, None);
    assert!(
        answer
            .value
            .orders
            .iter()
            .all(|order| order.needed && order.copies == 1)
    );
}

#[test]
fn halo_follows_speed_importance_and_links() {
    let sandbox = sandbox();
    let slot = SchedulerSlot::new(&sandbox);
    slot.activate(&builtin(&sandbox, "scheduler-halo"), &[])
        .unwrap();
    let answer = slot.place(&model(), &devices(), None);
    assert_eq!(answer.fault, None);
    let owners = &answer.value.owners;
    let held = |device: u32| owners.iter().filter(|&&owner| owner == device).count();
    // The leader is as fast as the good worker, but sends to three of them.
    assert!(held(1) >= held(0) && held(0) > held(2), "{owners:?}");
    for layer in owners.chunks(GROUPS as usize) {
        // The most important group of every layer is the leader's.
        assert_eq!(layer[GROUPS as usize - 1], 0, "{owners:?}");
    }
    // Asked again, it keeps what it has.
    let again = slot.place(&model(), &devices(), Some(&answer.value));
    assert_eq!(again.fault, None);
    assert_eq!(again.value.owners, answer.value.owners);

    let answer = slot.admit(&round());
    assert_eq!(answer.fault, None);
    let needed: Vec<bool> = answer
        .value
        .orders
        .iter()
        .map(|order| order.needed)
        .collect();
    let copies: Vec<u8> = answer
        .value
        .orders
        .iter()
        .map(|order| order.copies)
        .collect();
    assert_eq!((needed, copies), (vec![true, true, false], vec![1, 1, 2]));
    assert_eq!(answer.value.patience_us, 2400);
}

#[test]
fn settings_reach_the_policy_and_unknown_ones_are_refused() {
    let sandbox = sandbox();
    let slot = SchedulerSlot::new(&sandbox);
    let halo = builtin(&sandbox, "scheduler-halo");
    slot.activate(&halo, &settings(&[("budget", "0")])).unwrap();
    assert!(
        slot.admit(&round())
            .value
            .orders
            .iter()
            .all(|order| order.needed)
    );

    let error = slot
        .activate(&halo, &settings(&[("budgte", "0")]))
        .unwrap_err();
    let PolicyError::Trial(fault) = error else {
        panic!("{error}")
    };
    assert_eq!(fault.operation, Operation::Init);
    assert!(
        matches!(&fault.reason, FaultReason::Refused(words) if words.contains("budgte")),
        "{fault}"
    );
    // The one in force stays.
    assert_eq!(slot.active().name, "scheduler-halo");
}

#[test]
fn too_little_memory_is_refused_and_the_leader_takes_the_rest() {
    let sandbox = sandbox();
    let slot = SchedulerSlot::new(&sandbox);
    for name in ["scheduler-even", "scheduler-halo"] {
        let scheduler = builtin(&sandbox, name);
        slot.activate(&scheduler, &[]).unwrap();
        let mut devices = devices();
        devices
            .iter_mut()
            .for_each(|device| device.memory = 5 << 10);
        let answer = slot.place(&model(), &devices, None);
        let fault = answer.fault.unwrap();
        assert_eq!(
            fault.to_string(),
            format!(
                "policy {name:?}: place was refused by the policy: the devices have memory for 20 of 24 groups"
            )
        );
        assert_eq!(
            answer
                .value
                .owners
                .iter()
                .filter(|&&owner| owner == 0)
                .count(),
            9
        );
        // Nor does a question without an answer keep a policy from being put in force.
        slot.activate(&scheduler, &[]).unwrap();
        assert_eq!(slot.active().rollbacks, 0);
    }
}

#[test]
fn predictors_score_every_layer() {
    let sandbox = sandbox();
    let slot = PredictorSlot::new(&sandbox, model(), parameters());
    let mut by_name = Vec::new();
    for name in ["predictor-static", "predictor-probe"] {
        slot.activate(&builtin(&sandbox, name), &[]).unwrap();
        for layer in 0..LAYERS {
            let mut scores = Vec::new();
            assert_eq!(slot.score(layer, &hidden(), &mut scores), None);
            assert_eq!(scores.len(), GROUPS as usize);
            assert!(
                (scores.iter().sum::<f32>() - 1.0).abs() < 1e-5,
                "{scores:?}"
            );
            assert!(scores.iter().all(|score| *score >= 0.0));
            by_name.push(scores);
        }
    }
    by_name.dedup();
    assert_eq!(
        by_name.len(),
        2 * LAYERS as usize,
        "each layer of each predictor has its own scores"
    );
}

#[test]
fn the_probe_agrees_with_plain_arithmetic() {
    let sandbox = sandbox();
    let slot = PredictorSlot::new(&sandbox, model(), parameters());
    slot.activate(&builtin(&sandbox, "predictor-probe"), &[])
        .unwrap();
    let hidden = hidden();
    let mean_square = hidden.iter().map(|x| x * x).sum::<f32>() / hidden.len() as f32;
    let scale = 1.0 / (mean_square + 1e-6).sqrt();
    let [_, down, up, bias] = &parameters()[..] else {
        panic!()
    };
    let (groups, rank, width) = (GROUPS as usize, common::RANK as usize, hidden.len());
    for layer in 0..LAYERS as usize {
        let inner: Vec<f32> = down.values[layer * rank * width..][..rank * width]
            .chunks(width)
            .map(|row| row.iter().zip(&hidden).map(|(a, b)| a * b * scale).sum())
            .collect();
        let raw: Vec<f32> = (0..groups)
            .map(|group| {
                let row = &up.values[(layer * groups + group) * rank..][..rank];
                let log: f32 = row.iter().zip(&inner).map(|(a, b)| a * b).sum();
                (log + bias.values[layer * groups + group]).exp()
            })
            .collect();
        let sum: f32 = raw.iter().sum();
        let mut scores = Vec::new();
        assert_eq!(slot.score(layer as u32, &hidden, &mut scores), None);
        for (score, raw) in scores.iter().zip(&raw) {
            assert!((score - raw / sum).abs() < 1e-5, "{scores:?}");
        }
    }
}

#[test]
fn a_probe_without_parameters_says_what_is_missing() {
    let sandbox = sandbox();
    let slot = PredictorSlot::new(&sandbox, model(), Vec::new());
    let error = slot
        .activate(&builtin(&sandbox, "predictor-probe"), &[])
        .unwrap_err();
    assert!(
        error.to_string().contains("no parameter \"probe.down\""),
        "{error}"
    );
    assert_eq!(slot.active().name, halo_policy::builtin::NAME);
    let mut scores = Vec::new();
    assert_eq!(slot.score(0, &hidden(), &mut scores), None);
    assert_eq!(scores.len(), GROUPS as usize);
}

#[test]
fn a_policy_goes_only_into_its_own_kind_of_slot() {
    let sandbox = sandbox();
    let error = SchedulerSlot::new(&sandbox)
        .activate(&builtin(&sandbox, "predictor-static"), &[])
        .unwrap_err();
    assert!(matches!(
        error,
        PolicyError::WrongKind {
            expected: Kind::Scheduler,
            found: Kind::Predictor,
            ..
        }
    ));
}
