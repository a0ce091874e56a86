//! One attempt at a placement: the scheduler makes it, every worker loads its groups, and this node loads its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use halo_engine::{AttentionHeads, EngineError, FeedForward};
use halo_fabric::{CallError, NodeId};
use halo_policy::{Device, Model, Placement};
use tokio::task::JoinSet;
use tracing::warn;

use crate::background;
use crate::config::SyncMode;
use crate::error::NodeError;
use crate::heads::{Counts, Sharing};
use crate::messages::{ASSIGN, Assign, Heads};
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
    /// An earlier placement of the same devices to go back to, rather than have the scheduler make one.
    pub(crate) back: Option<Arc<Plan>>,
    /// Epochs that rounds may still be under way on.
    pub(crate) keep: BTreeSet<u32>,
}

/// What came of it.
pub(crate) enum Outcome {
    /// The placement is the one that there is.
    Unchanged,
    /// Everybody has loaded its part.
    Ready(Box<Prepared>),
    /// A worker does not take its part.
    Declined(NodeId, CallError),
}

impl Planner {
    pub(crate) async fn attempt(&self, request: Request) -> Result<Outcome, NodeError> {
        let Request { epoch, devices, .. } = request;
        let shape = self.package.shape();
        // With whom is gone, its texts' keys and values are.
        let current = request.current.as_ref();
        let known = current.filter(|_| !request.anew);
        let known = known.and_then(|plan| {
            Some((
                plan.head_counts(&devices, shape.kv_heads)?,
                plan.heads_since,
            ))
        });
        let going_back = request.back.as_ref().and_then(|plan| {
            let counts = plan.head_counts(&devices, shape.kv_heads)?;
            Some((counts, plan.placement.clone()))
        });
        let in_force = current.filter(|c| c.devices == devices);
        let (counts, placement) = match going_back {
            Some(earlier) => earlier,
            None => {
                let before = known.as_ref().map(|(counts, _)| counts);
                let (counts, model, described) = self.share_attention(request.described, before);
                let current = in_force.map(|c| c.placement.clone());
                (counts, self.place(model, described, current).await?)
            }
        };
        let since = known
            .filter(|(before, _)| *before == counts)
            .map_or(epoch, |(_, since)| since);
        let same = in_force
            .is_some_and(|c| c.heads_since == since && c.placement.owners == placement.owners);
        if same && !request.anew {
            return Ok(Outcome::Unchanged);
        }
        let mut plan = Plan::new(
            epoch,
            devices,
            placement,
            shape.layers,
            self.package.groups(),
        );
        plan.share_attention(&counts, since);
        if let Err((node, error)) = self.assign(&plan, &request.keep).await {
            return Ok(Outcome::Declined(node, error));
        }
        let (engine, package) = (self.engine.clone(), self.package.clone());
        let prepare = move || -> Result<Prepared, EngineError> {
            let heads = plan.heads.first();
            let heads = heads.map(|own| AttentionHeads::load(&engine, &package, own));
            Ok(Prepared {
                feed_forward: FeedForward::load(&engine, &package, &plan.groups[0])?,
                heads: heads.transpose()?,
                plan: Arc::new(plan),
            })
        };
        let prepared = background::run(prepare)
            .await
            .map_err(|e| NodeError::Task(e.to_string()))??;
        Ok(Outcome::Ready(Box::new(prepared)))
    }

    /// Shares the attention out, as long as all groups fit beside it, and gives what the scheduler is told then: attention takes the
    /// leader as long as it takes everybody, and the devices have the memory that is left.
    fn share_attention(
        &self,
        described: Vec<Device>,
        current: Option<&Counts>,
    ) -> (Counts, Model, Vec<Device>) {
        let mut model = self.policies.model().clone();
        let sharing = Sharing::new(self.attention, &self.package, &model, &described);
        let counts = sharing.share(current);
        let mut left = described.clone();
        for (device, count) in left.iter_mut().zip(&counts).skip(1) {
            let taken = sharing.bytes.saturating_mul(*count as u64);
            device.memory = device.memory.saturating_sub(taken);
        }
        let room = |device: &Device| device.memory / model.group_bytes.max(1);
        let room = left.iter().map(room).fold(0, u64::saturating_add);
        let at_home = sharing.at_home();
        if counts == at_home || room < model.total_groups() as u64 {
            return (at_home, model, described);
        }
        let speed = described.first().map_or(0.0, |leader| leader.speed);
        model.attention_cost = (sharing.seconds(&counts) * f64::from(speed)) as f32;
        (counts, model, left)
    }

    async fn place(
        &self,
        model: Model,
        described: Vec<Device>,
        current: Option<Placement>,
    ) -> Result<Placement, NodeError> {
        let policies = Arc::clone(&self.policies);
        let (arrangement, seed) = (self.testing.arrangement, self.testing.seed);
        let place = move || {
            let mut answer = policies
                .scheduler()
                .place(&model, &described, current.as_ref());
            arrangement.apply(&mut answer.value, &model, &described, seed);
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
                heads: plan.heads.get(device).map(|heads| Heads {
                    since: plan.heads_since,
                    heads: heads.clone(),
                    whole: self.sync.mode != SyncMode::Relaxed,
                }),
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
