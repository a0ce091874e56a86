//! A place for one policy that can be exchanged while it is being called.

use std::fmt;

use crate::{
    Active, Cause, Change, Component, Fault, Kind, PolicyError, Sandbox, Setting,
    instance::{Policy, Start},
    slot::Slot,
};

/// What the policies of a slot decide, and what a new one is tried on.
pub(crate) trait Role: Send + Sync + 'static {
    /// How an instance is started.
    type Start: Start;

    /// The kind of its policies.
    const KIND: Kind;

    /// How to start a component of this kind. `None` for one of another.
    fn start(&self, component: &Component, settings: &[Setting]) -> Option<Self::Start>;

    /// A new policy's first calls, on whose results nothing depends but whether it is put in force.
    fn try_instance(&self, policy: &Policy<Self::Start>) -> Result<(), Fault>;
}

/// Holds the policy in force, or the built-in rule: a [`SchedulerSlot`](crate::SchedulerSlot) or a
/// [`PredictorSlot`](crate::PredictorSlot).
///
/// All methods take `&self` and may be called from any threads at once.
#[expect(private_bounds, reason = "there are no other roles than this crate's")]
pub struct PolicySlot<R: Role> {
    sandbox: Sandbox,
    pub(crate) role: R,
    pub(crate) slot: Slot<R::Start>,
}

#[expect(private_bounds, reason = "there are no other roles than this crate's")]
impl<R: Role> PolicySlot<R> {
    /// The built-in rule is in force.
    pub(crate) fn with_role(sandbox: &Sandbox, role: R) -> Self {
        Self {
            sandbox: sandbox.clone(),
            role,
            slot: Slot::new(R::KIND, sandbox.limits().strikes),
        }
    }

    /// Puts a policy in force.
    ///
    /// It is instantiated, initialised and tried on the questions asked last (made-up ones if there are none) beside the one in
    /// force, and becomes current between two calls; calls under way end on the old one. The trial's calls are the new
    /// instance's first ones.
    ///
    /// # Errors
    ///
    /// [`PolicyError::WrongKind`] for a component of another kind, [`PolicyError::Trial`] if it failed its initialisation (for
    /// example because the package has not the parameters it needs) or its trial. The policy in force stays.
    pub fn activate(&self, component: &Component, settings: &[Setting]) -> Result<(), PolicyError> {
        self.put_in_force(component, settings, Cause::Activated)
    }

    /// As [`activate`](Self::activate), for another reason.
    ///
    /// # Errors
    ///
    /// Those of [`activate`](Self::activate).
    pub fn put_in_force(
        &self,
        component: &Component,
        settings: &[Setting],
        cause: Cause,
    ) -> Result<(), PolicyError> {
        let policy = self.start(component, settings)?;
        self.slot.replace(Some(policy), cause);
        Ok(())
    }

    /// Does all that [`activate`](Self::activate) does first, and leaves what is in force.
    ///
    /// # Errors
    ///
    /// Those of [`activate`](Self::activate).
    pub fn try_out(&self, component: &Component, settings: &[Setting]) -> Result<(), PolicyError> {
        self.start(component, settings).map(drop)
    }

    /// Puts the built-in rule in force.
    pub fn deactivate(&self, cause: Cause) {
        self.slot.replace(None, cause);
    }

    /// What is in force.
    pub fn active(&self) -> Active {
        self.slot.active()
    }

    /// What has been in force, oldest first; the last is in force now.
    pub fn history(&self) -> Vec<Change> {
        self.slot.history()
    }

    /// A new instance that has passed its trial.
    fn start(
        &self,
        component: &Component,
        settings: &[Setting],
    ) -> Result<Policy<R::Start>, PolicyError> {
        let start = self
            .role
            .start(component, settings)
            .ok_or_else(|| PolicyError::WrongKind {
                name: component.name().to_owned(),
                expected: R::KIND,
                found: component.kind(),
            })?;
        let policy = Policy::start(&self.sandbox, component, start)?;
        self.role.try_instance(&policy)?;
        Ok(policy)
    }
}

impl<R: Role> fmt::Debug for PolicySlot<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySlot")
            .field("kind", &R::KIND)
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}
