//! What a node answers on the control plane.

use std::sync::{Arc, Mutex, PoisonError};

use halo_fabric::{Call, Fabric, NodeId, Service};
use halo_policy::Cause;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::assignments::Assignments;
use crate::background;
use crate::error::NodeError;
use crate::generating::Account;
use crate::messages::{self, Profile};
use crate::packages::{Giver, Taker};
use crate::planned::Planned;
use crate::policies::Policies;
use crate::temperature::temperature;
use crate::timeline;

/// The parts of a node that other nodes ask something of.
#[derive(Debug, Clone)]
pub(crate) struct Operations {
    pub(crate) fabric: Fabric,
    pub(crate) assignments: Assignments,
    pub(crate) giver: Giver,
    pub(crate) taker: Taker,
    pub(crate) policies: Arc<Policies>,
    pub(crate) profile: Profile,
    /// What this node has planned, if it leads.
    pub(crate) planned: Arc<Mutex<Option<Planned>>>,
    pub(crate) account: Account,
}

impl Operations {
    /// Answers until the service is dropped.
    pub(crate) async fn serve(self) -> Result<Service, NodeError> {
        let fabric = self.fabric.clone();
        let service = fabric.serve(move |call| {
            let operations = self.clone();
            Box::pin(async move { operations.answer(call).await })
        });
        Ok(service.await?)
    }

    async fn answer(self, call: Call) -> Result<Value, String> {
        match call.operation.as_str() {
            messages::PROFILE => value(&Profile {
                temperature: temperature(),
                ..self.profile.clone()
            }),
            messages::COUNTERS => value(&self.fabric.counters()),
            messages::LOADING => value(&self.assignments.loading()),
            messages::TIMELINE => {
                let wish: timeline::Wish = parse(call.body)?;
                blocking(move || Ok(timeline::answer(wish))).await
            }
            messages::PLAN => {
                let planned = self.planned.lock();
                value(&*planned.unwrap_or_else(PoisonError::into_inner))
            }
            messages::GENERATING => value(&self.account.read()),
            messages::PACE => {
                let leader: NodeId = parse(call.body)?;
                value(&self.assignments.paces().of(&leader))
            }
            messages::ASSIGN => {
                if !self.profile.serves {
                    return Err("this node leads but does not compute for others".into());
                }
                let wish: messages::Assign = parse(call.body)?;
                let alive = self.fabric.members().borrow().clone();
                background(move || self.assignments.load(&wish, &alive)).await
            }
            messages::MODEL_OFFER => value(&self.giver.offer().await?),
            messages::MODEL_TAKE => value(&self.taker.take(parse(call.body)?, call.from)?),
            messages::MODEL_TAKING => value(&self.taker.taking(&parse(call.body)?)),
            messages::POLICY_LIST => {
                blocking(move || self.policies.list().map_err(|e| e.to_string())).await
            }
            messages::POLICY_STATE => value(&self.policies.state()),
            messages::POLICY_RECORDING => value(&self.policies.recording()),
            messages::POLICY_INSPECT => {
                let wanted: String = parse(call.body)?;
                blocking(move || self.policies.inspect(&wanted).map_err(|e| e.to_string())).await
            }
            messages::POLICY_PUSH => {
                let push: messages::Push = parse(call.body)?;
                blocking(move || self.policies.receive(&push)).await
            }
            messages::POLICY_FETCH => {
                let fetch: messages::Fetch = parse(call.body)?;
                blocking(move || self.policies.piece(&fetch).map_err(|e| e.to_string())).await
            }
            messages::POLICY_TRY => {
                let choice: messages::Choice = parse(call.body)?;
                background(move || {
                    let tried = self.policies.try_out(&choice);
                    tried.map_err(|e| e.to_string())
                })
                .await
            }
            messages::POLICY_ACTIVATE => {
                let wish: messages::Activate = parse(call.body)?;
                blocking(move || {
                    let cause = if wish.back {
                        Cause::RolledBack
                    } else {
                        Cause::Activated
                    };
                    self.policies.activate(&wish.choice, cause, wish.sequence)
                })
                .await
            }
            unknown => Err(format!(
                "this node (HALO {}) knows no operation `{unknown}`",
                env!("CARGO_PKG_VERSION")
            )),
        }
    }
}

/// Runs what takes long enough to hold up other answers on a thread of its own.
async fn blocking<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<Value, String> {
    value(
        &tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| e.to_string())??,
    )
}

/// Runs what takes long, and takes time of what computes, so that it gives way to that.
async fn background<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<Value, String> {
    let answer = background::run(work).await;
    value(&answer.map_err(|e| e.to_string())??)
}

pub(crate) fn parse<T: DeserializeOwned>(body: Value) -> Result<T, String> {
    serde_json::from_value(body)
        .map_err(|e| format!("not understood: {e}; do both nodes run the same version of HALO?"))
}

pub(crate) fn value<T: Serialize>(value: &T) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|e| e.to_string())
}
