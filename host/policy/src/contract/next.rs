//! How a field is added to the contract: what a version 0.2 would take, whose `device` has `bytes-per-second` too. Compiled for
//! this test only.

use wasmtime::{
    Store,
    component::{HasSelf, InstancePre, Linker},
};

use super::{SchedulerCalls, SchedulerWorld, Started};
use crate::{Device, Model, Order, Placement, Round, Setting, Verdict, guest::Guest};

mod bindings {
    wasmtime::component::bindgen!({ world: "scheduler-policy", path: "tests/wit-0.2" });
}
use bindings::{
    SchedulerPolicy, SchedulerPolicyPre,
    exports::halo::policy::scheduler as wire,
    halo::policy::{host, types},
};

impl host::Host for Guest {
    fn log(&mut self, message: String) {
        crate::bindings::scheduler::halo::policy::host::Host::log(self, message);
    }
}

impl types::Host for Guest {}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    host::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

pub(super) fn scheduler(pre: InstancePre<Guest>) -> wasmtime::Result<impl SchedulerWorld> {
    SchedulerPolicyPre::new(pre)
}

impl SchedulerWorld for SchedulerPolicyPre<Guest> {
    fn start(
        &self,
        store: &mut Store<Guest>,
        settings: &[Setting],
    ) -> Started<Box<dyn SchedulerCalls>> {
        let setting = |setting: &Setting| types::Setting {
            key: setting.key.clone(),
            value: setting.value.clone(),
        };
        let settings: Vec<types::Setting> = settings.iter().map(setting).collect();
        let policy = self.instantiate(&mut *store)?;
        let outcome = policy.halo_policy_scheduler().call_init(store, &settings)?;
        Ok(outcome.map(|()| Box::new(policy) as _))
    }
}

impl SchedulerCalls for SchedulerPolicy {
    fn place(
        &self,
        store: &mut Store<Guest>,
        model: &Model,
        devices: &[Device],
        _current: Option<&Placement>,
    ) -> Started<Placement> {
        let device = |device: &Device| wire::Device {
            name: device.name.clone(),
            leader: device.leader,
            speed: device.speed,
            memory: device.memory,
            delay_us: device.delay_us,
            spread_us: device.spread_us,
            loss: device.loss,
            bytes_per_second: device.speed * model.group_bytes as f32,
        };
        let devices: Vec<wire::Device> = devices.iter().map(device).collect();
        let model = types::Model {
            layers: model.layers,
            width: model.width,
            groups: model.groups,
            group_bytes: model.group_bytes,
            attention_cost: model.attention_cost,
            head_cost: model.head_cost,
            importance: model.importance.clone(),
        };
        let scheduler = self.halo_policy_scheduler();
        let outcome = scheduler.call_place(store, &model, &devices, None)?;
        Ok(outcome.map(|placement| Placement {
            owners: placement.owners,
            standbys: Vec::new(),
            token_us: placement.token_us,
        }))
    }

    fn admit(&self, store: &mut Store<Guest>, round: &Round) -> wasmtime::Result<Verdict> {
        let debtor = |debtor: &crate::Debtor| wire::Debtor {
            device: debtor.device,
            share: debtor.share,
            expected_us: debtor.expected_us,
            spread_us: debtor.spread_us,
            loss: debtor.loss,
        };
        let round = wire::Round {
            layer: round.layer,
            rows: round.rows,
            debtors: round.debtors.iter().map(debtor).collect(),
            concealed: round.concealed,
        };
        let verdict = self.halo_policy_scheduler().call_admit(store, &round)?;
        let order = |order: wire::Order| Order {
            needed: order.needed,
            copies: order.copies,
        };
        Ok(Verdict {
            orders: verdict.orders.into_iter().map(order).collect(),
            patience_us: verdict.patience_us,
        })
    }
}

#[test]
fn components_of_both_versions_work_side_by_side() {
    use crate::{Limits, PolicyStore, Sandbox, SchedulerSlot};

    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let old = PolicyStore::builtin().get("scheduler-even").unwrap();
    let old = sandbox.compile("scheduler-even", &old.bytes).unwrap();
    let path = "/../../plugins/components/testing/scheduler-next.wasm";
    let new = std::fs::read(env!("CARGO_MANIFEST_DIR").to_owned() + path).unwrap();
    let new = sandbox.compile("scheduler-next", &new).unwrap();
    assert_eq!((old.version(), new.version()), ("0.1.0", "0.2.0"));
    assert_eq!(new.exports(), ["halo:policy/scheduler@0.2.0"]);

    let model = Model {
        layers: 2,
        width: 8,
        groups: 2,
        group_bytes: 1000,
        ..Model::default()
    };
    let device = |leader, speed| Device {
        leader,
        speed,
        memory: 4000,
        ..Device::default()
    };
    let devices = [device(true, 10.0), device(false, 30.0)];
    let slot = SchedulerSlot::new(&sandbox);
    let placed = |component| {
        slot.activate(component, &[]).unwrap();
        let answer = slot.place(&model, &devices, None);
        assert_eq!(answer.fault, None);
        answer.value
    };
    assert_eq!(placed(&old).owners, [0, 1, 0, 1]);
    let new = placed(&new);
    assert_eq!(new.owners, [1; 4]);
    assert_eq!(new.token_us, 30_000, "the field that only 0.2 has");
}
