//! The scheduler in force.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use wasmtime::Store;

use crate::{
    Answer, Component, Debtor, Device, Fault, FaultReason, Kind, Model, Operation, Placement,
    Placing, Round, Sandbox, Setting, Verdict, builtin, check,
    component::World,
    contract::{SchedulerCalls, SchedulerWorld, Started},
    guest::Guest,
    instance::{Policy, Start, shorten},
    policy_slot::{PolicySlot, Role},
    recording::LastPass,
};

/// Decides who computes what and whom to wait for: by the policy in force, or by the built-in rule.
pub type SchedulerSlot = PolicySlot<Scheduler>;

/// Placements, and verdicts on rounds.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// The last questions, to try a new policy on.
    last: Mutex<Last>,
    /// Placements under way.
    placing: AtomicUsize,
}

#[derive(Debug, Default)]
struct Last {
    place: Option<(Model, Placing)>,
    rounds: LastPass<Round>,
}

/// How a scheduler is started.
pub(crate) struct SchedulerStart {
    world: Arc<dyn SchedulerWorld>,
    settings: Vec<Setting>,
}

impl Start for SchedulerStart {
    type Bindings = Box<dyn SchedulerCalls>;

    fn settings(&self) -> &[Setting] {
        &self.settings
    }

    fn start(&self, store: &mut Store<Guest>) -> Started<Self::Bindings> {
        self.world.start(store, &self.settings)
    }
}

impl Role for Scheduler {
    type Start = SchedulerStart;

    const KIND: Kind = Kind::Scheduler;

    fn start(&self, component: &Component, settings: &[Setting]) -> Option<SchedulerStart> {
        let World::Scheduler(world) = &component.world else {
            return None;
        };
        Some(SchedulerStart {
            world: world.clone(),
            settings: settings.to_vec(),
        })
    }

    fn try_instance(&self, policy: &Policy<SchedulerStart>) -> Result<(), Fault> {
        let (place, mut rounds) = {
            let last = self.last();
            (last.place.clone(), last.rounds.questions())
        };
        let (model, Placing { devices, current }) = place.unwrap_or_else(sample_place);
        match self.ask_place(policy, &model, &devices, current.as_ref()) {
            // No policy can place what does not fit; this one is right to refuse.
            Err(Fault {
                reason: FaultReason::Refused(_),
                ..
            }) if check::placement(&model, &devices, &builtin::place(&model, &devices))
                .is_err() => {}
            outcome => _ = outcome?,
        }
        if rounds.is_empty() {
            rounds.push(sample_round());
        }
        for round in &rounds {
            self.ask_admit(policy, round)?;
        }
        Ok(())
    }
}

impl SchedulerSlot {
    /// A slot with the built-in rule in force.
    pub fn new(sandbox: &Sandbox) -> Self {
        Self::with_role(sandbox, Scheduler::default())
    }

    /// A placement of every group on some device with memory for it.
    ///
    /// `current` is the placement in force over the same devices, if there is one: it stays if the policy says that it
    /// cannot place. Where memory does not suffice for all groups, the built-in rule leaves the rest to the leader, which
    /// has them on disk.
    pub fn place(
        &self,
        model: &Model,
        devices: &[Device],
        current: Option<&Placement>,
    ) -> Answer<Placement> {
        // What does not fit these devices is no placement in force, and must not reach a policy as one.
        let current = current.filter(|current| check::placement(model, devices, current).is_ok());
        let question = check::model(model).and_then(|()| check::devices(devices));
        if question.is_ok() {
            let placing = Placing {
                devices: devices.to_vec(),
                current: current.cloned(),
            };
            self.role.last().place = Some((model.clone(), placing));
        }
        let Some(policy) = self.slot.current() else {
            return Answer {
                value: builtin::place(model, devices),
                fault: None,
            };
        };
        let outcome = question.map_err(|reason| policy.fault(Operation::Place, reason));
        let outcome = outcome.and_then(|()| {
            self.role.placing.fetch_add(1, Ordering::AcqRel);
            let outcome = self.role.ask_place(&policy, model, devices, current);
            self.role.placing.fetch_sub(1, Ordering::AcqRel);
            outcome
        });
        match self.slot.settle(&policy, outcome) {
            Ok(value) => Answer { value, fault: None },
            Err(fault) => {
                let value = match (&fault.reason, current) {
                    (FaultReason::Refused(_), Some(current)) => current.clone(),
                    _ => builtin::place(model, devices),
                };
                Answer {
                    value,
                    fault: Some(fault),
                }
            }
        }
    }

    /// Whom to wait for in `round`, and how long. While the policy is busy with a placement, the built-in rule answers, so
    /// that no round waits for a plan.
    pub fn admit(&self, round: &Round) -> Answer<Verdict> {
        let question = check::round(round);
        if question.is_ok()
            && let Some(last) = self.role.last().rounds.entry(round.layer)
        {
            last.clone_from(round);
        }
        let busy = self.role.placing.load(Ordering::Acquire) > 0;
        let Some(policy) = self.slot.current().filter(|_| !busy) else {
            return Answer {
                value: builtin::admit(round),
                fault: None,
            };
        };
        let outcome = question
            .map_err(|reason| policy.fault(Operation::Admit, reason))
            .and_then(|()| self.role.ask_admit(&policy, round));
        match self.slot.settle(&policy, outcome) {
            Ok(value) => Answer { value, fault: None },
            Err(fault) => Answer {
                value: builtin::admit(round),
                fault: Some(fault),
            },
        }
    }

    /// The last question for a placement, and the last round of each layer.
    pub fn questions(&self) -> (Option<Placing>, Vec<Round>) {
        let last = self.role.last();
        let placing = last.place.as_ref().map(|(_, placing)| placing.clone());
        (placing, last.rounds.questions())
    }
}

impl Scheduler {
    fn ask_place(
        &self,
        policy: &Policy<SchedulerStart>,
        model: &Model,
        devices: &[Device],
        current: Option<&Placement>,
    ) -> Result<Placement, Fault> {
        let time = policy.limits().place;
        let answer = policy.call(Operation::Place, time, |bindings, store| {
            bindings.place(store, model, devices, current)
        })?;
        let fault = |reason| policy.fault(Operation::Place, reason);
        let placement = answer.map_err(|words| fault(FaultReason::Refused(shorten(&words))))?;
        check::placement(model, devices, &placement).map_err(fault)?;
        Ok(placement)
    }

    fn ask_admit(&self, policy: &Policy<SchedulerStart>, round: &Round) -> Result<Verdict, Fault> {
        let time = policy.limits().admit;
        let verdict = policy.call(Operation::Admit, time, |bindings, store| {
            bindings.admit(store, round)
        })?;
        check::verdict(round, &verdict).map_err(|reason| policy.fault(Operation::Admit, reason))?;
        Ok(verdict)
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A small cluster, for a first trial.
fn sample_place() -> (Model, Placing) {
    let model = Model {
        layers: 2,
        width: 64,
        groups: 8,
        group_bytes: 1 << 20,
        attention_cost: 2.0,
        head_cost: 4.0,
        importance: Vec::new(),
    };
    let device = |index: u16| Device {
        name: format!("sample-{index}"),
        leader: index == 0,
        speed: 1e4 / f32::from(index + 1),
        memory: 64 << 20,
        delay_us: 300 * u32::from(index),
        spread_us: 50 * u32::from(index),
        loss: 0.01 * f32::from(index),
    };
    let placing = Placing {
        devices: (0..3).map(device).collect(),
        current: None,
    };
    (model, placing)
}

/// A round of that cluster.
fn sample_round() -> Round {
    let debtor = |device: u32| Debtor {
        device,
        share: 0.25,
        expected_us: 900,
        spread_us: 100,
        loss: 0.02,
    };
    Round {
        layer: 0,
        rows: 1,
        debtors: vec![debtor(1), debtor(2)],
        concealed: 0.0,
    }
}
