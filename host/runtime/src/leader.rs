//! The leader's side of rounds: the feed-forward of a generation, computed here and on workers.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use halo_engine::{FeedForward, FeedForwardSource, FeedForwardStep, TIMELINE};
use halo_fabric::{Fabric, Header, Kind, TensorShape, Transport};
use halo_models::Package;
use halo_policy::{Debtor, Order, Round as Admission, Verdict};
use tracing::{info, trace_span, warn};

use crate::arrival::Arrivals;
use crate::concealer::Concealer;
use crate::config::{Sync, SyncMode};
use crate::error::GenerationError;
use crate::exchange::Exchange;
use crate::generation::Source;
use crate::inbox::LeaderInbox;
use crate::plan::Plan;
use crate::plan_slot::{PlanSlot, Prepared};
use crate::policies::Policies;
use crate::round::{Repair, Round};
use crate::telemetry::Counts;

/// How long strict synchronisation waits for a placement without a worker that is gone. Loading groups from an SD card takes
/// its time.
const REPLAN_PATIENCE: Duration = Duration::from_secs(60);

/// A bound on waiting for TCP and for its imitation, which back off for minutes.
const TCP_BOUND: Duration = Duration::from_secs(120);

/// Rows that are computed in about the time of a round trip; a round with more is bounded by as many times more.
const ROWS_IN_BOUND: u32 = 8;

/// The feed-forward of the generations that this node leads. A round carries the rows of all that are under way.
pub(crate) struct Leader {
    policies: Arc<Policies>,
    sync: Sync,
    /// What tensors travel over. Over TCP, everything is waited for.
    transport: Transport,
    slot: Arc<PlanSlot>,
    exchange: Exchange,
    width: usize,
    groups: usize,

    plan: Arc<Plan>,
    feed_forward: FeedForward,
    arrivals: Arrivals,
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
            width: package.shape().width,
            groups: package.groups(),
            plan: first.plan,
            feed_forward: first.feed_forward,
            arrivals: Arrivals::default(),
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
        self.plan = prepared.plan;
        self.feed_forward = prepared.feed_forward;
        self.exchange.counts.new_placements += 1;
        self.concealer.clear();
        info!(epoch = self.plan.epoch, "new placement in force");
        Ok(())
    }

    /// One attempt at a round. True if the sum is there, false if it must be done again on a new plan.
    fn attempt(&mut self, step: &mut FeedForwardStep<'_>) -> Result<bool, GenerationError> {
        let layer = step.layer;
        let (generation, number) = (self.generation, self.step);
        let _round =
            trace_span!(target: TIMELINE, "round", layer, step = number, generation).entered();
        let rows = step.normed.len() / self.width;
        let debtors = self.exchange.debtors(&self.plan, layer);
        let shares: Vec<f32> = debtors
            .iter()
            .map(|w| self.share(self.exchange.worker(*w).device, layer))
            .collect();
        let verdict = trace_span!(target: TIMELINE, "admit", layer)
            .in_scope(|| self.verdict(layer, rows, &debtors, &shares));

        let activation = TensorShape::new(rows, self.width, self.sync.activation)?;
        let name = Header {
            layer: layer as u16,
            generation: self.generation,
            epoch: self.plan.epoch,
            step: self.step,
            ..Header::of_tensor(Kind::Activation, &activation)
        };
        let sending = trace_span!(target: TIMELINE, "send", layer).entered();
        let sent =
            self.exchange
                .fan_out(&activation, step.normed, &name, &debtors, &verdict.orders);
        // zenoh sends from threads of its own. On a machine with one core they would wait until this one has computed its share, and
        // the workers would begin when it ends.
        thread::yield_now();
        drop(sending);
        let began = Instant::now();
        self.feed_forward.run(layer, step.normed, step.sum)?;
        if rows == 1 {
            let groups = self.plan.groups[0][layer].len();
            let paces = &self.slot.paces;
            paces.add(&self.plan.devices[0], groups, began.elapsed());
        }
        // The answers are under way: time to predict the next layer.
        trace_span!(target: TIMELINE, "predict", layer = layer + 1)
            .in_scope(|| self.predict(layer + 1, step.hidden));

        let mut round = self.round(rows, &debtors, &verdict)?;
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
        self.settle(layer, &mut round, &debtors, &shares, rows, step.sum);
        Ok(true)
    }

    /// TCP or its imitation: waits for everything, and sends it once.
    fn is_like_tcp(&self) -> bool {
        self.transport == Transport::Tcp || self.sync.mode == SyncMode::LikeTcp
    }

    fn round(
        &self,
        rows: usize,
        debtors: &[usize],
        verdict: &Verdict,
    ) -> Result<Round, GenerationError> {
        let expected = debtors.iter().zip(&verdict.orders).map(|(w, order)| {
            (
                order.needed,
                self.arrivals
                    .of(&self.exchange.worker(*w).node, rows)
                    .late(),
            )
        });
        let (repair, bound) = match (self.transport, self.sync.mode) {
            (Transport::Tcp, _) => (Repair::NEVER, TCP_BOUND),
            (Transport::Udp, SyncMode::LikeTcp) => (Repair::LIKE_TCP, TCP_BOUND),
            (Transport::Udp, SyncMode::Strict | SyncMode::Relaxed) => (
                Repair::ADAPTIVE,
                self.sync.bound() * (1 + rows as u32 / ROWS_IN_BOUND),
            ),
        };
        let patience = Duration::from_micros(u64::from(verdict.patience_us));
        let shape = TensorShape::new(rows, self.width, self.sync.partial)?;
        Ok(Round::new(shape, expected, repair, patience, bound))
    }

    /// Adds what came of the partials, always in the same order, and learns from when it came.
    fn settle(
        &mut self,
        layer: usize,
        round: &mut Round,
        debtors: &[usize],
        shares: &[f32],
        rows: usize,
        sum: &mut [f32],
    ) {
        let counts = &mut self.exchange.counts;
        counts.rounds += 1;
        counts.partials += debtors.len() as u64;
        self.concealed[layer] = 0.0;
        for (index, &w) in debtors.iter().enumerate() {
            let worker = self.exchange.worker(w);
            if let Some(took) = round.took(index) {
                self.arrivals.observe(&worker.node, rows, took);
                if rows == 1 {
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
                self.concealed[layer] += shares[index] * missing;
            }
            self.concealer.conceal(device, layer, assembly);
            for (s, v) in sum.iter_mut().zip(assembly.values()) {
                *s += v;
            }
        }
    }

    /// Predicted share of a layer's contribution that a device computes.
    fn share(&self, device: usize, layer: usize) -> f32 {
        let groups = &self.plan.groups[device][layer];
        if self.scores.len() == self.groups {
            let share: f32 = groups.iter().map(|g| self.scores[*g as usize]).sum();
            // A whole layer's may come out a little above 1, which is no share.
            share.min(1.0)
        } else {
            groups.len() as f32 / self.groups as f32
        }
    }

    /// Whom to wait for, and how often to send.
    fn verdict(&mut self, layer: usize, rows: usize, debtors: &[usize], shares: &[f32]) -> Verdict {
        if self.is_like_tcp() || debtors.is_empty() {
            let order = Order {
                needed: true,
                copies: 1,
            };
            return Verdict {
                orders: vec![order; debtors.len()],
                patience_us: u32::MAX,
            };
        }
        let debtor = |(&w, &share): (&usize, &f32)| {
            let worker = self.exchange.worker(w);
            let arrival = self.arrivals.of(&worker.node, rows);
            Debtor {
                device: worker.device as u32,
                share,
                expected_us: micros(arrival.mean()),
                spread_us: micros(arrival.spread()),
                loss: worker.link.estimate().loss_both_ways() as f32,
            }
        };
        let admission = Admission {
            layer: layer as u32,
            rows: rows as u32,
            debtors: debtors.iter().zip(shares).map(debtor).collect(),
            concealed: self.concealed[..layer].iter().sum::<f32>() / layer.max(1) as f32,
        };
        let answer = self.policies.scheduler().admit(&admission);
        self.exchange.counts.policy_faults += u64::from(answer.fault.is_some());
        let mut verdict = answer.value;
        if self.sync.mode == SyncMode::Strict {
            verdict.orders.iter_mut().for_each(|o| o.needed = true);
        }
        verdict
    }

    /// Scores a layer from the residual stream of the round before it: of the rows whose next token is wanted, the mean.
    fn predict(&mut self, layer: usize, hidden: &[f32]) {
        if layer >= self.plan.groups[0].len() {
            return;
        }
        let mut mean = Vec::new();
        for end in &self.ends {
            let row = &hidden[end * self.width..][..self.width];
            let predictor = self.policies.predictor();
            let fault = predictor.score(layer as u32, row, &mut self.next_scores);
            self.exchange.counts.policy_faults += u64::from(fault.is_some());
            mean.resize(self.next_scores.len(), 0.0);
            for (mean, score) in mean.iter_mut().zip(&self.next_scores) {
                *mean += score / self.ends.len() as f32;
            }
        }
        self.next_scores = mean;
    }
}

fn micros(duration: Duration) -> u32 {
    duration.as_micros().min(u128::from(u32::MAX)) as u32
}

impl FeedForwardSource for Leader {
    type Error = GenerationError;

    fn ends(&mut self, rows: &[usize]) {
        self.ends = rows.to_vec();
    }

    fn begin(&mut self, embedded: &[f32]) -> Result<(), GenerationError> {
        self.step = self.step.wrapping_add(1);
        self.concealed.fill(0.0);
        self.predict(0, embedded);
        Ok(())
    }

    fn step(&mut self, mut step: FeedForwardStep<'_>) -> Result<(), GenerationError> {
        std::mem::swap(&mut self.scores, &mut self.next_scores);
        if let Some(prepared) = self.slot.take() {
            self.adopt(prepared)?;
        }
        while !self.attempt(&mut step)? {
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
        Ok(())
    }
}

impl Source for Leader {
    fn concealed(&self) -> &[f32] {
        &self.concealed
    }

    fn counts(&self) -> Counts {
        self.exchange.counts()
    }
}
