//! What the tests of policies share.

#![allow(dead_code, reason = "not every test program uses all of it")]

use std::{fs, path::Path, time::Duration};

use halo_policy::{
    Component, Debtor, Device, Limits, Model, PolicyStore, Round, Sandbox, Setting, Tensor,
};

pub(crate) const LAYERS: u32 = 3;
pub(crate) const WIDTH: u32 = 40;
pub(crate) const GROUPS: u32 = 8;
pub(crate) const RANK: u32 = 4;

/// A model whose later groups matter more.
pub(crate) fn model() -> Model {
    Model {
        layers: LAYERS,
        width: WIDTH,
        groups: GROUPS,
        group_bytes: 1 << 10,
        attention_cost: 2.0,
        head_cost: 3.0,
        importance: (0..LAYERS * GROUPS)
            .map(|i| (i % GROUPS + 1) as f32 / 36.0)
            .collect(),
    }
}

/// A leader and three workers: one as good, one slow, one over a bad link.
pub(crate) fn devices() -> Vec<Device> {
    let device = |name: &str, speed, delay_us, loss| Device {
        name: name.into(),
        leader: delay_us == 0,
        speed,
        memory: 20 << 10,
        delay_us,
        spread_us: delay_us / 10,
        loss,
    };
    vec![
        device("leader", 1000.0, 0, 0.0),
        device("good", 1000.0, 300, 0.01),
        device("slow", 400.0, 300, 0.01),
        device("lossy", 1000.0, 300, 0.2),
    ]
}

/// A round in which three workers owe their partials.
pub(crate) fn round() -> Round {
    let debtor = |device, share, loss| Debtor {
        device,
        share,
        expected_us: 2000,
        spread_us: 100,
        loss,
    };
    Round {
        layer: 2,
        rows: 1,
        debtors: vec![
            debtor(1, 0.3, 0.01),
            debtor(2, 0.1, 0.01),
            debtor(3, 0.02, 0.2),
        ],
        concealed: 0.0,
    }
}

/// The calibration that the predictors read.
pub(crate) fn parameters() -> Vec<Tensor> {
    let tensor = |name: &str, shape: &[u32]| {
        let count: u32 = shape.iter().product();
        let values = (0..count)
            .map(|i| (i as f32 * 0.7).sin().abs() * 0.1)
            .collect();
        Tensor {
            name: name.into(),
            shape: shape.to_vec(),
            values,
        }
    };
    vec![
        tensor("mean", &[LAYERS, GROUPS]),
        tensor("probe.down", &[LAYERS, RANK, WIDTH]),
        tensor("probe.up", &[LAYERS, GROUPS, RANK]),
        tensor("probe.bias", &[LAYERS, GROUPS]),
    ]
}

/// A hidden state.
pub(crate) fn hidden() -> Vec<f32> {
    (0..WIDTH).map(|i| (i as f32 * 0.3).cos()).collect()
}

/// Limits of time that nothing but an endless loop comes near, however busy the machine is that tests.
pub(crate) fn sandbox() -> Sandbox {
    patient(Duration::from_secs(60))
}

/// With this much time for every call.
pub(crate) fn patient(time: Duration) -> Sandbox {
    let limits = Limits {
        init: time,
        place: time,
        admit: time,
        score: time,
        ..Limits::default()
    };
    Sandbox::new(limits).unwrap()
}

/// One of the components that come with the binary.
pub(crate) fn builtin(sandbox: &Sandbox, name: &str) -> Component {
    let stored = PolicyStore::builtin().get(name).unwrap();
    sandbox.compile(name, &stored.bytes).unwrap()
}

/// One of the components that misbehave.
pub(crate) fn faulty(sandbox: &Sandbox, name: &str) -> Component {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/components/testing");
    let bytes = fs::read(folder.join(format!("{name}.wasm"))).unwrap();
    sandbox.compile(name, &bytes).unwrap()
}

pub(crate) fn settings(settings: &[(&str, &str)]) -> Vec<Setting> {
    settings
        .iter()
        .map(|(key, value)| Setting::new(*key, *value))
        .collect()
}
