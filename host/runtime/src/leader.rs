//! The leader's side of rounds: the feed-forward of a generation, and maybe its attention, computed here and on workers.

mod admission;
mod source;
mod work;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use halo_engine::{AttentionHeads, FeedForward, TIMELINE};
use halo_fabric::{Block, Fabric, Header, Kind, TensorShape, Transport};
use halo_models::{Package, Shape};
use tracing::{info, trace_span, warn};

use crate::arrival::Arrivals;
use crate::concealer::Concealer;
use crate::config::{Sync, SyncMode};
use crate::error::GenerationError;
use crate::exchange::Exchange;
use crate::inbox::LeaderInbox;
use crate::plan::Plan;
use crate::plan_slot::{PlanSlot, Prepared};
use crate::policies::Policies;
use crate::round::Round;
use work::{Task, Work};

/// How long strict synchronisation waits for a placement without a worker that is gone. Loading groups from an SD card takes
/// its time.
const REPLAN_PATIENCE: Duration = Duration::from_secs(60);

/// The feed-forward of the generations that this node leads, and their attention, where that is shared. A round carries the rows of
/// all that are under way.
pub(crate) struct Leader {
    policies: Arc<Policies>,
    sync: Sync,
    /// What tensors travel over. Over TCP, everything is waited for.
    transport: Transport,
    slot: Arc<PlanSlot>,
    exchange: Exchange,
    shape: Shape,
    groups: usize,

    plan: Arc<Plan>,
    feed_forward: FeedForward,
    /// This node's, where attention is shared.
    heads: Option<AttentionHeads>,
    /// The heads are others since the generator asked last.
    moved: bool,
    /// Of the feed-forward's partials and of attention's.
    arrivals: [Arrivals; 2],
    /// Names this leader's rounds. It is the same for all generations, which share them.
    generation: u64,
    step: u32,
    /// The rows of this pass that a next token is wanted for.
    ends: Vec<usize>,
    /// Predicted importance of this layer's groups, adding up to 1, and of the next layer's.
    scores: Vec<f32>,
    next_scores: Vec<f32>,
    /// Share of predicted contribution concealed in this pass, by layer.
    concealed: Vec<f32>,
    concealer: Concealer,
}

impl Leader {
    pub(crate) fn new(
        fabric: Fabric,
        package: &Package,
        policies: Arc<Policies>,
        sync: Sync,
        slot: Arc<PlanSlot>,
        inbox: LeaderInbox,
        first: Prepared,
    ) -> Result<Self, GenerationError> {
        let concealer = Concealer::new(sync.conceal);
        let transport = fabric.config().tensors;
        let mut exchange = Exchange::new(fabric, Arc::clone(&slot), inbox);
        exchange.connect(&first.plan)?;
        Ok(Self {
            policies,
            sync,
            transport,
            slot,
            exchange,
            shape: package.shape().clone(),
            groups: package.groups(),
            plan: first.plan,
            feed_forward: first.feed_forward,
            heads: first.heads,
            moved: false,
            arrivals: Default::default(),
            generation: rand::random(),
            step: 0,
            ends: Vec::new(),
            scores: Vec::new(),
            next_scores: Vec::new(),
            concealed: vec![0.0; package.shape().layers],
            concealer,
        })
    }

    fn adopt(&mut self, prepared: Prepared) -> Result<(), GenerationError> {
        self.exchange.connect(&prepared.plan)?;
        let before = std::mem::replace(&mut self.plan, prepared.plan);
        self.moved |= before.heads_since != self.plan.heads_since
            && (before.shares_attention() || self.plan.shares_attention());
        self.feed_forward = prepared.feed_forward;
        self.heads = prepared.heads;
        self.exchange.counts.new_placements += 1;
        self.concealer.clear();
        info!(epoch = self.plan.epoch, "new placement in force");
        Ok(())
    }

    /// One round, as often as it takes.
    fn round(&mut self, mut work: Work<'_, '_>) -> Result<(), GenerationError> {
        if let Some(prepared) = self.slot.take() {
            self.adopt(prepared)?;
        }
        while !self.moved {
            if self.attempt(&mut work)? {
                return Ok(());
            }
            self.exchange.counts.repeated_rounds += 1;
            let prepared =
                self.slot
                    .wait(REPLAN_PATIENCE)
                    .map_err(|why| GenerationError::Stuck {
                        workers: self.exchange.gone(),
                        why,
                    })?;
            self.adopt(prepared)?;
        }
        Err(GenerationError::Moved)
    }

    /// One attempt at a round. True if the sum is there, false if it must be done again on a new plan.
    fn attempt(&mut self, work: &mut Work<'_, '_>) -> Result<bool, GenerationError> {
        let (layer, block) = (work.layer, work.block());
        let (generation, number) = (self.generation, self.step);
        let _round = match block {
            Block::FeedForward => {
                trace_span!(target: TIMELINE, "round", layer, step = number, generation)
            }
            Block::Attention => {
                trace_span!(target: TIMELINE, "attention round", layer, step = number, generation)
            }
        }
        .entered();
        let rows = work.normed.len() / self.shape.width;
        let debtors = self.exchange.debtors(&self.plan, block, layer);
        let shares: Vec<f32> = debtors
            .iter()
            .map(|w| self.share(self.exchange.worker(*w).device, block, layer))
            .collect();
        let verdict = trace_span!(target: TIMELINE, "admit", layer)
            .in_scope(|| self.verdict(block, layer, rows, &debtors, &shares));

        let activation = TensorShape::new(rows, self.shape.width, self.sync.activation)?;
        let name = Header {
            layer: layer as u16,
            block,
            generation: self.generation,
            epoch: self.plan.epoch,
            step: self.step,
            ..Header::of_tensor(Kind::Activation, &activation)
        };
        let sending = trace_span!(target: TIMELINE, "send", layer).entered();
        let (normed, places, orders) = (work.normed, work.places(), &verdict.orders);
        let sent = self
            .exchange
            .fan_out(&activation, normed, &name, places, &debtors, orders);
        if block == Block::Attention {
            self.exchange.mend(places);
        }
        // zenoh sends from threads of its own. On a machine with one core they would wait until this one has computed its share, and
        // the workers would begin when it ends.
        thread::yield_now();
        drop(sending);
        self.compute(work, rows)?;

        let mut round = self.expected(block, rows, &debtors, &verdict)?;
        trace_span!(target: TIMELINE, "wait", layer)
            .in_scope(|| self.exchange.fan_in(&mut round, &debtors, &sent));
        for suspect in round.suspects(sent.elapsed()) {
            let worker = debtors[suspect];
            warn!(worker = %self.exchange.worker(worker).node, layer, "did not answer within the bound");
            self.exchange.suspect(worker);
        }
        let relaxed = self.sync.mode == SyncMode::Relaxed && !self.is_like_tcp();
        if !relaxed && !round.complete() {
            return Ok(false);
        }
        if block == Block::Attention {
            self.exchange.note_missed(&round, &sent, work.places());
        }
        self.settle(work, &mut round, &debtors, &shares, rows);
        Ok(true)
    }

    /// Computes this node's own part of a round.
    fn compute(&mut self, work: &mut Work<'_, '_>, rows: usize) -> Result<(), GenerationError> {
        let layer = work.layer;
        match &mut work.task {
            Task::FeedForward { hidden } => {
                let began = Instant::now();
                self.feed_forward.run(layer, work.normed, work.sum)?;
                if rows == 1 {
                    let groups = self.plan.groups[0][layer].len();
                    let paces = &self.slot.paces;
                    paces.add(&self.plan.devices[0], groups, began.elapsed());
                }
                // The answers are under way: time to predict the next layer.
                trace_span!(target: TIMELINE, "predict", layer = layer + 1)
                    .in_scope(|| self.predict(layer + 1, hidden));
            }
            Task::Attention { parts, .. } => {
                if let Some(heads) = &mut self.heads {
                    trace_span!(target: TIMELINE, "attention", layer)
                        .in_scope(|| heads.run(layer, parts, work.normed, work.sum))?;
                }
            }
        }
        Ok(())
    }

    /// Adds what came of the partials, always in the same order, and learns from when it came.
    fn settle(
        &mut self,
        work: &mut Work<'_, '_>,
        round: &mut Round,
        debtors: &[usize],
        shares: &[f32],
        rows: usize,
    ) {
        let (layer, block) = (work.layer, work.block());
        // A layer's rounds count the same.
        let weight = if self.plan.shares_attention() {
            0.5
        } else {
            1.0
        };
        let counts = &mut self.exchange.counts;
        counts.rounds += 1;
        counts.partials += debtors.len() as u64;
        for (index, &w) in debtors.iter().enumerate() {
            let worker = self.exchange.worker(w);
            if let Some(took) = round.took(index) {
                self.arrivals[block as usize].observe(&worker.node, rows, took);
                if rows == 1 && block == Block::FeedForward {
                    // This node may have been computing when the answer came.
                    let groups = self.plan.groups[worker.device][layer].len();
                    let paces = &self.slot.paces;
                    paces.add(&worker.node, groups, took.min(worker.heard));
                }
            }
            let device = worker.device;
            let assembly = round.assembly_mut(index);
            if !assembly.complete() {
                self.exchange.counts.concealed_partials += 1;
                let missing =
                    f32::from(assembly.missing_count()) / f32::from(assembly.shape().chunks());
                self.concealed[layer] += weight * shares[index] * missing;
            }
            let part = layer + block as usize * self.shape.layers;
            self.concealer.conceal(device, part, assembly);
            for (s, v) in work.sum.iter_mut().zip(assembly.values()) {
                *s += v;
            }
        }
    }
}
