//! One running policy: its instance, made anew when it broke.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use wasmtime::{Store, Trap};

use crate::{
    Component, Digest, Fault, FaultReason, Limits, Operation, Sandbox, Setting, guest::Guest,
};

/// How an instance of one world is made.
pub(crate) trait Start: Send + Sync + 'static {
    /// The typed exports.
    type Bindings: Send;

    /// What the policy is told.
    fn settings(&self) -> &[Setting];

    /// Instantiates and initialises. The inner error is the policy's own.
    fn start(&self, store: &mut Store<Guest>) -> wasmtime::Result<Result<Self::Bindings, String>>;
}

/// A policy with all that it takes to run it.
pub(crate) struct Policy<S: Start> {
    pub(crate) name: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) digest: Digest,
    sandbox: Sandbox,
    start: S,
    /// `None` after a trap or an overrun: such an instance is never called again.
    instance: Mutex<Option<Instance<S::Bindings>>>,
    health: Mutex<Health>,
}

struct Instance<B> {
    store: Store<Guest>,
    bindings: B,
}

/// How a policy has been doing.
#[derive(Clone, Copy, Default)]
struct Health {
    faults: u64,
    strikes: u32,
    /// Good calls since the last fault.
    calm: u32,
}

/// Good calls after which earlier faults are forgotten. More than one: a policy that loops for its whole deadline every
/// other call should go too, and an instance made anew after a fault may do well for a while.
const CALM: u32 = 64;

impl<S: Start> Policy<S> {
    /// Instantiates and initialises `component`.
    pub(crate) fn start(sandbox: &Sandbox, component: &Component, start: S) -> Result<Self, Fault> {
        let policy = Self {
            name: component.name.clone(),
            version: component.version.clone(),
            digest: component.digest,
            sandbox: sandbox.clone(),
            start,
            instance: Mutex::new(None),
            health: Mutex::new(Health::default()),
        };
        let instance = policy.instantiate()?;
        *policy
            .instance
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(instance);
        Ok(policy)
    }

    /// Calls a function of the policy within `time`. Calls of one policy wait for one another.
    pub(crate) fn call<T>(
        &self,
        operation: Operation,
        time: Duration,
        function: impl FnOnce(&S::Bindings, &mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let mut slot = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out, so that nothing can leave a broken one behind.
        let mut instance = match slot.take() {
            Some(instance) => instance,
            None => self.instantiate()?,
        };
        let Instance { store, bindings } = &mut instance;
        self.sandbox.arm(store, time);
        match function(bindings, store) {
            Ok(value) => {
                // Memory it was refused and could do without is forgotten.
                store.data_mut().limiter().take_refused();
                *slot = Some(instance);
                Ok(value)
            }
            Err(error) => {
                let reason = self.reason(&error, store, time);
                Err(self.fault(operation, reason))
            }
        }
    }

    /// What it may use.
    pub(crate) fn limits(&self) -> &Limits {
        self.sandbox.limits()
    }

    /// What it was told.
    pub(crate) fn settings(&self) -> &[Setting] {
        self.start.settings()
    }

    /// A fault of this policy.
    pub(crate) fn fault(&self, operation: Operation, reason: FaultReason) -> Fault {
        Fault {
            policy: self.name.to_string(),
            operation,
            reason,
        }
    }

    /// Takes note of a good call.
    pub(crate) fn praise(&self) {
        let mut health = self.health();
        health.calm = health.calm.saturating_add(1);
        if health.calm >= CALM {
            health.strikes = 0;
        }
    }

    /// Takes note of a fault; returns how many there have been lately, and whether it is the first ever.
    pub(crate) fn strike(&self) -> (u32, bool) {
        let mut health = self.health();
        health.calm = 0;
        health.faults += 1;
        health.strikes = health.strikes.saturating_add(1);
        (health.strikes, health.faults == 1)
    }

    /// Forgets all faults.
    pub(crate) fn forgive(&self) {
        *self.health() = Health::default();
    }

    /// Whether there have been no faults lately.
    pub(crate) fn is_healthy(&self) -> bool {
        self.health().strikes == 0
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn instantiate(&self) -> Result<Instance<S::Bindings>, Fault> {
        let time = self.sandbox.limits().init;
        let mut store = self.sandbox.store(&self.name);
        self.sandbox.arm(&mut store, time);
        match self.start.start(&mut store) {
            Ok(Ok(bindings)) => Ok(Instance { store, bindings }),
            Ok(Err(words)) => {
                Err(self.fault(Operation::Init, FaultReason::Refused(shorten(&words))))
            }
            Err(error) => {
                let reason = self.reason(&error, &mut store, time);
                Err(self.fault(Operation::Init, reason))
            }
        }
    }

    /// Why wasmtime gave up on a call.
    fn reason(
        &self,
        error: &wasmtime::Error,
        store: &mut Store<Guest>,
        time: Duration,
    ) -> FaultReason {
        if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
            FaultReason::Deadline(time)
        } else if store.data_mut().limiter().take_refused() {
            FaultReason::Memory(self.sandbox.limits().memory)
        } else {
            FaultReason::Trap(shorten(&error.root_cause().to_string()))
        }
    }
}

impl<S: Start> fmt::Debug for Policy<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// A policy's own words, cut to what fits a message.
pub(crate) fn shorten(words: &str) -> String {
    const MAX: usize = 400;
    let cut = words.floor_char_boundary(MAX.min(words.len()));
    let mut short: String = words[..cut]
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if cut < words.len() {
        short.push('…');
    }
    short
}
