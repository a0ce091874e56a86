//! The leader's side of rounds: the feed-forward of a generation, computed here and on workers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use halo_engine::{FeedForward, FeedForwardSource, FeedForwardStep};
use halo_fabric::{ASK_PARTIAL, Accepted, Fabric, Header, Kind, Link, NodeId, TensorShape};
use halo_policy::{Debtor, Order, Round as Admission, Verdict};
use tracing::{info, warn};

use crate::arrival::Arrivals;
use crate::config::{Sync, SyncMode};
use crate::error::GenerationError;
use crate::generation::Source;
use crate::inbox::Arrived;
use crate::plan::Plan;
use crate::plan_slot::{PlanSlot, Prepared};
use crate::policies::Policies;
use crate::round::{Ask, Repair, Round, Standing};
use crate::telemetry::Counts;

/// How long strict synchronisation waits for a placement without a worker that is gone. Loading groups from an SD card takes
/// its time.
const REPLAN_PATIENCE: Duration = Duration::from_secs(60);

/// An activation of at most this many packets is sent again whole when nothing came back; of a longer one the worker is asked
/// what it misses, which costs a round trip and saves a burst.
const RESEND_WHOLE: u16 = 4;

/// The feed-forward of one generation that this node leads.
pub(crate) struct Leader {
    fabric: Fabric,
    policies: Arc<Policies>,
    sync: Sync,
    slot: Arc<PlanSlot>,
    inbox: Receiver<Arrived>,
    generation: u64,
    width: usize,
    groups: usize,

    plan: Arc<Plan>,
    feed_forward: FeedForward,
    workers: Vec<WorkerLink>,
    arrivals: Arrivals,
    step: u32,
    /// Predicted importance of the next layer's groups, adding up to 1.
    scores: Vec<f32>,
    /// Share of predicted contribution concealed, summed over the rounds of this pass.
    concealed: f32,
    rounds: u32,
    counts: Counts,
}

/// A worker of the plan in force.
struct WorkerLink {
    /// Its index among the plan's devices.
    device: usize,
    node: NodeId,
    link: Arc<Link>,
    gone: bool,
}

impl Leader {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a node that a generation needs, each once"
    )]
    pub(crate) fn new(
        fabric: Fabric,
        policies: Arc<Policies>,
        sync: Sync,
        slot: Arc<PlanSlot>,
        inbox: Receiver<Arrived>,
        width: usize,
        groups: usize,
        first: Prepared,
    ) -> Result<Self, GenerationError> {
        let mut leader = Self {
            fabric,
            policies,
            sync,
            slot,
            inbox,
            generation: 0,
            width,
            groups,
            plan: Arc::clone(&first.plan),
            feed_forward: first.feed_forward,
            workers: Vec::new(),
            arrivals: Arrivals::default(),
            step: 0,
            scores: Vec::new(),
            concealed: 0.0,
            rounds: 0,
            counts: Counts::default(),
        };
        leader.workers = leader.links(&first.plan)?;
        Ok(leader)
    }

    fn links(&self, plan: &Plan) -> Result<Vec<WorkerLink>, GenerationError> {
        let workers = plan
            .devices
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(d, _)| plan.groups[*d].iter().any(|g| !g.is_empty()));
        workers
            .map(|(device, node)| {
                let link = self.fabric.link(node)?;
                Ok(WorkerLink {
                    device,
                    node: node.clone(),
                    link,
                    gone: self.slot.is_gone(node),
                })
            })
            .collect()
    }

    fn adopt(&mut self, prepared: Prepared) -> Result<(), GenerationError> {
        self.workers = self.links(&prepared.plan)?;
        self.plan = prepared.plan;
        self.feed_forward = prepared.feed_forward;
        self.counts.new_placements += 1;
        info!(
            epoch = self.plan.epoch,
            workers = self.workers.len(),
            "new placement in force"
        );
        Ok(())
    }

    /// One attempt at a round. True if the sum is there, false if it must be done again on a new plan.
    fn attempt(&mut self, step: &mut FeedForwardStep<'_>) -> Result<bool, GenerationError> {
        let layer = step.layer;
        let rows = step.normed.len() / self.width;
        let began = Instant::now();
        let debtors: Vec<usize> = (0..self.workers.len())
            .filter(|w| !self.plan.groups[self.workers[*w].device][layer].is_empty())
            .collect();
        let shares: Vec<f32> = debtors
            .iter()
            .map(|w| self.share(self.workers[*w].device, layer))
            .collect();
        let verdict = self.verdict(layer, rows, &debtors, &shares);

        let activation = TensorShape::new(rows, self.width, self.sync.activation)?;
        let header = Header {
            layer: layer as u16,
            generation: self.generation,
            epoch: self.plan.epoch,
            step: self.step,
            ..Header::of_tensor(Kind::Activation, &activation)
        };
        let packets = encode(&activation, step.normed);
        for (&w, order) in debtors.iter().zip(&verdict.orders) {
            for _ in 0..order.copies {
                if !self.workers[w].gone {
                    self.send(w, &header, &packets);
                }
            }
        }
        self.feed_forward.run(layer, step.normed, step.sum)?;
        // The answers are under way: time to predict the next layer.
        self.predict(layer + 1, step.hidden);

        let expected = debtors.iter().zip(&verdict.orders).map(|(w, o)| {
            (
                o.needed,
                self.arrivals.of(&self.workers[*w].node, rows).late(),
            )
        });
        let repair = if self.sync.mode == SyncMode::LikeTcp {
            Repair::LIKE_TCP
        } else {
            Repair::ADAPTIVE
        };
        let bound = if self.sync.mode == SyncMode::LikeTcp {
            Duration::from_secs(120)
        } else {
            self.sync.bound()
        };
        let patience = Duration::from_micros(u64::from(verdict.patience_us));
        let mut round = Round::new(
            TensorShape::new(rows, self.width, self.sync.partial)?,
            expected,
            repair,
            patience,
            bound,
        );
        let sent = Sent {
            header,
            packets,
            began,
        };
        self.collect(&mut round, &debtors, &sent);

        let suspects = round.suspects(began.elapsed());
        for &d in &suspects {
            let worker = &mut self.workers[debtors[d]];
            warn!(worker = %worker.node, layer, "did not answer within the bound");
            worker.gone = true;
            self.slot.suspect(&worker.node);
        }
        if self.sync.mode != SyncMode::Relaxed && !round.complete() {
            return Ok(false);
        }
        self.settle(&round, &debtors, &shares, rows, step.sum);
        Ok(true)
    }

    /// Waits for what the round waits for.
    fn collect(&mut self, round: &mut Round, debtors: &[usize], sent: &Sent) {
        let mut version = None;
        loop {
            let seen = self.slot.version();
            if version.replace(seen) != Some(seen) {
                for (index, &w) in debtors.iter().enumerate() {
                    self.workers[w].gone |= self.slot.is_gone(&self.workers[w].node);
                    if self.workers[w].gone {
                        round.gone(index);
                    }
                }
            }
            let now = sent.began.elapsed();
            for (index, ask) in round.due(now) {
                self.counts.asked_again += 1;
                self.ask(round, index, debtors[index], ask, sent);
            }
            let Standing::Waiting(until) = round.standing(now) else {
                return;
            };
            match self
                .inbox
                .recv_timeout(until.saturating_sub(sent.began.elapsed()))
            {
                Ok(arrived) => self.arrived(round, debtors, sent, &arrived),
                Err(RecvTimeoutError::Timeout) => {}
                // The node is closing: nothing more will come, and the bound ends the round.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn arrived(&mut self, round: &mut Round, debtors: &[usize], sent: &Sent, arrived: &Arrived) {
        self.counts.packets_received += 1;
        let header = &arrived.header;
        let ours = header.generation == self.generation
            && header.epoch == sent.header.epoch
            && header.step == sent.header.step
            && header.layer == sent.header.layer;
        let debtor = debtors
            .iter()
            .position(|w| self.workers[*w].node == arrived.from);
        let Some(debtor) = debtor.filter(|_| ours) else {
            self.counts.packets_useless += 1;
            return;
        };
        let now = sent.began.elapsed();
        match header.kind {
            Kind::Partial => {
                if round.accept(debtor, header, &arrived.body, now) != Accepted::New {
                    self.counts.packets_useless += 1;
                }
            }
            Kind::Ask => {
                let flags = round.asked(debtor).min(255) as u8;
                for chunk in arrived.asked() {
                    if let Some(body) = sent.packets.get(usize::from(chunk)) {
                        self.send_one(
                            debtors[debtor],
                            &Header {
                                chunk,
                                flags,
                                ..sent.header
                            },
                            body,
                        );
                    }
                }
                round.restarted(debtor, now);
            }
            _ => self.counts.packets_useless += 1,
        }
    }

    fn ask(&mut self, round: &Round, index: usize, worker: usize, ask: Ask, sent: &Sent) {
        let flags = round.asked(index).min(255) as u8;
        if ask == Ask::Everything && sent.header.chunks <= RESEND_WHOLE {
            self.send(
                worker,
                &Header {
                    flags,
                    ..sent.header
                },
                &sent.packets,
            );
            return;
        }
        let assembly = round.assembly(index);
        let of_partial = Header::of_tensor(Kind::Ask, assembly.shape());
        let header = Header {
            encoding: of_partial.encoding,
            chunks: of_partial.chunks,
            kind: Kind::Ask,
            flags: ASK_PARTIAL,
            ..sent.header
        };
        for (chunk, bitmap) in assembly.missing_bitmaps() {
            self.send_one(worker, &Header { chunk, ..header }, &bitmap);
        }
    }

    fn send(&mut self, worker: usize, header: &Header, packets: &[Vec<u8>]) {
        for (chunk, body) in (0..).zip(packets) {
            self.send_one(worker, &Header { chunk, ..*header }, body);
        }
    }

    fn send_one(&mut self, worker: usize, header: &Header, body: &[u8]) {
        self.counts.packets_sent += 1;
        self.counts.bytes_sent += (halo_fabric::HEADER_BYTES + body.len()) as u64;
        self.workers[worker].link.send(*header, body);
    }

    /// Adds what came of the partials, always in the same order, and learns from when it came.
    fn settle(
        &mut self,
        round: &Round,
        debtors: &[usize],
        shares: &[f32],
        rows: usize,
        sum: &mut [f32],
    ) {
        self.counts.rounds += 1;
        self.rounds += 1;
        for (index, &w) in debtors.iter().enumerate() {
            let assembly = round.assembly(index);
            self.counts.partials += 1;
            if !assembly.complete() {
                self.counts.concealed_partials += 1;
                let missing =
                    f32::from(assembly.missing_count()) / f32::from(assembly.shape().chunks());
                self.concealed += shares[index] * missing;
            }
            if let Some(took) = round.took(index) {
                self.arrivals.observe(&self.workers[w].node, rows, took);
            }
            for (s, v) in sum.iter_mut().zip(assembly.values()) {
                *s += v;
            }
        }
    }

    /// Predicted share of a layer's contribution that a device computes.
    fn share(&self, device: usize, layer: usize) -> f32 {
        let groups = &self.plan.groups[device][layer];
        if self.scores.len() == self.groups {
            groups.iter().map(|g| self.scores[*g as usize]).sum()
        } else {
            groups.len() as f32 / self.groups as f32
        }
    }

    fn verdict(&mut self, layer: usize, rows: usize, debtors: &[usize], shares: &[f32]) -> Verdict {
        if self.sync.mode != SyncMode::Relaxed || debtors.is_empty() {
            return Verdict {
                orders: vec![
                    Order {
                        needed: true,
                        copies: 1
                    };
                    debtors.len()
                ],
                patience_us: u32::MAX,
            };
        }
        let debtors = debtors.iter().zip(shares).map(|(&w, &share)| {
            let worker = &self.workers[w];
            let arrival = self.arrivals.of(&worker.node, rows);
            let estimate = worker.link.estimate();
            let kept =
                (1.0 - estimate.loss_to.unwrap_or(0.0)) * (1.0 - estimate.loss_from.unwrap_or(0.0));
            Debtor {
                device: worker.device as u32,
                share,
                expected_us: micros(arrival.mean()),
                spread_us: micros(arrival.spread()),
                loss: (1.0 - kept) as f32,
            }
        });
        let concealed = if self.rounds > 0 {
            self.concealed / self.rounds as f32
        } else {
            0.0
        };
        let admission = Admission {
            layer: layer as u32,
            rows: rows as u32,
            debtors: debtors.collect(),
            concealed,
        };
        let answer = self.policies.scheduler().admit(&admission);
        self.counts.policy_faults += u64::from(answer.fault.is_some());
        answer.value
    }

    /// Scores a layer from the residual stream of the round before it. Of several rows the last, which is the one whose next
    /// token is wanted.
    fn predict(&mut self, layer: usize, hidden: &[f32]) {
        if layer < self.plan.groups[0].len() {
            let row = &hidden[hidden.len() - self.width..];
            let fault = self
                .policies
                .predictor()
                .score(layer as u32, row, &mut self.scores);
            self.counts.policy_faults += u64::from(fault.is_some());
        }
    }
}

/// What a round sent, to send again.
struct Sent {
    header: Header,
    /// The activation's chunks.
    packets: Vec<Vec<u8>>,
    began: Instant,
}

fn encode(shape: &TensorShape, values: &[f32]) -> Vec<Vec<u8>> {
    let chunk = |chunk| {
        let mut body = Vec::with_capacity(shape.chunk_bytes(chunk));
        shape.encode_chunk(chunk, values, &mut body);
        body
    };
    (0..shape.chunks()).map(chunk).collect()
}

fn micros(duration: Duration) -> u32 {
    duration.as_micros().min(u128::from(u32::MAX)) as u32
}

impl FeedForwardSource for Leader {
    type Error = GenerationError;

    fn begin(&mut self, embedded: &[f32]) -> Result<(), GenerationError> {
        self.step = self.step.wrapping_add(1);
        self.concealed = 0.0;
        self.rounds = 0;
        self.predict(0, embedded);
        Ok(())
    }

    fn step(&mut self, mut step: FeedForwardStep<'_>) -> Result<(), GenerationError> {
        if let Some(prepared) = self.slot.take() {
            self.adopt(prepared)?;
        }
        while !self.attempt(&mut step)? {
            self.counts.repeated_rounds += 1;
            let prepared = self
                .slot
                .wait(REPLAN_PATIENCE)
                .map_err(|why| self.stuck(&why))?;
            self.adopt(prepared)?;
        }
        Ok(())
    }
}

impl Leader {
    fn stuck(&self, why: &str) -> GenerationError {
        let workers = self
            .workers
            .iter()
            .filter(|w| w.gone)
            .map(|w| w.node.clone())
            .collect();
        GenerationError::Stuck {
            workers,
            why: why.to_owned(),
        }
    }
}

impl Source for Leader {
    fn restart(&mut self) {
        self.generation = rand::random();
        self.counts = Counts::default();
    }

    fn concealed(&self) -> f32 {
        if self.rounds > 0 {
            self.concealed / self.rounds as f32
        } else {
            0.0
        }
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}
