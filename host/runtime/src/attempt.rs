//! One attempt at a placement: the scheduler makes it, every worker loads its groups, and this node loads its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use halo_engine::FeedForward;
use halo_fabric::{CallError, NodeId};
use halo_policy::{Device, Placement};
use tokio::task::JoinSet;
use tracing::warn;

use crate::error::NodeError;
use crate::messages::{ASSIGN, Assign};
use crate::plan::Plan;
use crate::plan_slot::Prepared;
use crate::planner::Planner;

/// Loading groups from an SD card takes its time.
const ASSIGN_PATIENCE: Duration = Duration::from_secs(120);

/// What a placement is to be made for.
pub(crate) struct Request {
    /// No other attempt has the same.
    pub(crate) epoch: u32,
    /// The leader first.
    pub(crate) devices: Vec<NodeId>,
    /// The same devices as the scheduler sees them.
    pub(crate) described: Vec<Device>,
    /// The last placement that everybody agreed to.
    pub(crate) current: Option<Arc<Plan>>,
    /// Even if the placement is the same: the generation has given up a worker and waits for a new epoch.
    pub(crate) anew: bool,
    /// Epochs that rounds may still be under way on.
    pub(crate) keep: BTreeSet<u32>,
}

/// What came of it.
pub(crate) enum Outcome {
    /// The placement is the one that there is.
    Unchanged,
    /// Everybody has loaded its part.
    Ready(Prepared),
    /// A worker does not take its part.
    Declined(NodeId, CallError),
}

impl Planner {
    pub(crate) async fn attempt(&self, request: Request) -> Result<Outcome, NodeError> {
        let current = request.current.as_ref();
        let current = current.filter(|c| c.devices == request.devices);
        let current = current.map(|c| c.placement.clone());
        let placement = self.place(request.described, current.clone()).await?;
        let same = current.is_some_and(|c| c.owners == placement.owners);
        if same && !request.anew {
            return Ok(Outcome::Unchanged);
        }
        let (layers, groups) = (self.package.shape().layers, self.package.groups());
        let plan = Plan::new(request.epoch, request.devices, placement, layers, groups);
        if let Err((node, error)) = self.assign(&plan, &request.keep).await {
            return Ok(Outcome::Declined(node, error));
        }
        let (engine, package) = (self.engine.clone(), self.package.clone());
        let own = plan.groups[0].clone();
        let load = move || FeedForward::load(&engine, &package, &own);
        let feed_forward = tokio::task::spawn_blocking(load)
            .await
            .map_err(|e| NodeError::Task(e.to_string()))??;
        let plan = Arc::new(plan);
        Ok(Outcome::Ready(Prepared { plan, feed_forward }))
    }

    async fn place(
        &self,
        described: Vec<Device>,
        current: Option<Placement>,
    ) -> Result<Placement, NodeError> {
        let policies = Arc::clone(&self.policies);
        let (arrangement, seed) = (self.testing.arrangement, self.testing.seed);
        let place = move || {
            let mut answer =
                policies
                    .scheduler()
                    .place(policies.model(), &described, current.as_ref());
            arrangement.apply(&mut answer.value, policies.model(), &described, seed);
            answer
        };
        let answer = tokio::task::spawn_blocking(place)
            .await
            .map_err(|e| NodeError::Task(e.to_string()))?;
        if let Some(fault) = answer.fault {
            warn!("the built-in rule made this placement: {fault}");
        }
        Ok(answer.value)
    }

    /// Has every worker of a plan load its groups. The error is of the first that does not.
    async fn assign(&self, plan: &Plan, keep: &BTreeSet<u32>) -> Result<(), (NodeId, CallError)> {
        let mut wishes = JoinSet::new();
        for (device, node) in plan.devices.iter().cloned().enumerate().skip(1) {
            let wish = Assign {
                leader: self.own.node.clone(),
                epoch: plan.epoch,
                keep: keep.clone(),
                model: self.package.identity().to_owned(),
                groups: plan.groups[device].clone(),
                standbys: plan.standbys(device),
                activation: self.sync.activation,
                partial: self.sync.partial,
            };
            let fabric = self.fabric.clone();
            wishes.spawn(async move {
                let answer = fabric.call(&node, ASSIGN, &wish, ASSIGN_PATIENCE).await;
                let answer: Result<(), CallError> = answer;
                answer.map_err(|error| (node, error))
            });
        }
        while let Some(Ok(answer)) = wishes.join_next().await {
            answer?;
        }
        Ok(())
    }
}
