//! Sending and receiving for a leader's rounds.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use halo_fabric::{
    ASK_PARTIAL, Accepted, Fabric, HEADER_BYTES, Header, Kind, Link, NodeId, TensorShape,
};
use halo_policy::Order;

use crate::error::GenerationError;
use crate::inbox::Arrived;
use crate::plan::Plan;
use crate::plan_slot::PlanSlot;
use crate::round::{Ask, Round, Standing};
use crate::telemetry::Counts;

/// An activation of at most this many packets is sent again whole when nothing came back; of a longer one the worker is asked
/// what it misses, which costs a round trip and saves a burst.
const RESEND_WHOLE: u16 = 4;

/// The leader's side of the network: the workers of the plan in force, and what comes from them.
pub(crate) struct Exchange {
    fabric: Fabric,
    slot: Arc<PlanSlot>,
    inbox: Receiver<Arrived>,
    workers: Vec<Worker>,
    pub(crate) counts: Counts,
}

/// A worker of the plan in force.
pub(crate) struct Worker {
    /// Its index among the plan's devices.
    pub(crate) device: usize,
    pub(crate) node: NodeId,
    pub(crate) link: Arc<Link>,
    /// It does not answer.
    pub(crate) gone: bool,
}

/// A round's activation as it went out, to send again.
pub(crate) struct Sent {
    header: Header,
    chunks: Vec<Vec<u8>>,
    began: Instant,
}

impl Sent {
    /// Encodes an activation; the round begins now. Of `header` only what names the round counts.
    pub(crate) fn new(shape: &TensorShape, values: &[f32], header: &Header) -> Self {
        let of_tensor = Header::of_tensor(Kind::Activation, shape);
        let header = Header {
            layer: header.layer,
            generation: header.generation,
            epoch: header.epoch,
            step: header.step,
            ..of_tensor
        };
        let chunk = |chunk| {
            let mut body = Vec::with_capacity(shape.chunk_bytes(chunk));
            shape.encode_chunk(chunk, values, &mut body);
            body
        };
        Self {
            header,
            chunks: (0..shape.chunks()).map(chunk).collect(),
            began: Instant::now(),
        }
    }

    /// Time since the round began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether a packet belongs to this round.
    fn is_of(&self, header: &Header) -> bool {
        let name = |h: &Header| (h.generation, h.epoch, h.step, h.layer);
        name(header) == name(&self.header)
    }
}

impl Exchange {
    pub(crate) fn new(fabric: Fabric, slot: Arc<PlanSlot>, inbox: Receiver<Arrived>) -> Self {
        Self {
            fabric,
            slot,
            inbox,
            workers: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// What has happened since the exchange was made.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            packets_lost: self.fabric.counters().dropped.packets,
            ..self.counts
        }
    }

    /// Makes the links to the workers of a plan.
    pub(crate) fn connect(&mut self, plan: &Plan) -> Result<(), GenerationError> {
        let workers = plan
            .devices
            .iter()
            .enumerate()
            .skip(1)
            .filter(|(d, _)| plan.groups[*d].iter().any(|g| !g.is_empty()));
        self.workers = workers
            .map(|(device, node)| {
                let link = self.fabric.link(node)?;
                Ok(Worker {
                    device,
                    node: node.clone(),
                    link,
                    gone: self.slot.is_gone(node),
                })
            })
            .collect::<Result<_, GenerationError>>()?;
        Ok(())
    }

    /// A worker by its index.
    pub(crate) fn worker(&self, worker: usize) -> &Worker {
        &self.workers[worker]
    }

    /// The workers that do not answer.
    pub(crate) fn gone(&self) -> Vec<NodeId> {
        self.workers
            .iter()
            .filter(|w| w.gone)
            .map(|w| w.node.clone())
            .collect()
    }

    /// Indices of the workers that compute groups of a layer.
    pub(crate) fn debtors(&self, plan: &Plan, layer: usize) -> Vec<usize> {
        (0..self.workers.len())
            .filter(|w| !plan.groups[self.workers[*w].device][layer].is_empty())
            .collect()
    }

    /// The worker has not answered within the bound: tells the planner, and waits for it no more.
    pub(crate) fn suspect(&mut self, worker: usize) {
        self.workers[worker].gone = true;
        self.slot.suspect(&self.workers[worker].node);
    }

    /// Sends an activation to those who owe a partial for it, as often as is ordered.
    pub(crate) fn fan_out(&mut self, sent: &Sent, debtors: &[usize], orders: &[Order]) {
        for (&worker, order) in debtors.iter().zip(orders) {
            for _ in 0..order.copies {
                if !self.workers[worker].gone {
                    self.send_activation(worker, sent, 0);
                }
            }
        }
    }

    /// Waits for what the round waits for, and asks again for what is late.
    pub(crate) fn fan_in(&mut self, round: &mut Round, debtors: &[usize], sent: &Sent) {
        let mut version = None;
        loop {
            let seen = self.slot.version();
            if version.replace(seen) != Some(seen) {
                self.notice_gone(round, debtors);
            }
            let now = sent.elapsed();
            for (index, ask) in round.due(now) {
                self.ask(round, index, debtors[index], ask, sent);
            }
            let Standing::Waiting(until) = round.standing(now) else {
                return;
            };
            match self
                .inbox
                .recv_timeout(until.saturating_sub(sent.elapsed()))
            {
                Ok(arrived) => self.arrived(round, debtors, sent, &arrived),
                Err(RecvTimeoutError::Timeout) => {}
                // The node is closing: nothing more will come, and the bound ends the round.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn notice_gone(&mut self, round: &mut Round, debtors: &[usize]) {
        for (index, &worker) in debtors.iter().enumerate() {
            let worker = &mut self.workers[worker];
            worker.gone |= self.slot.is_gone(&worker.node);
            if worker.gone {
                round.gone(index);
            }
        }
    }

    fn arrived(&mut self, round: &mut Round, debtors: &[usize], sent: &Sent, arrived: &Arrived) {
        self.counts.packets_received += 1;
        let header = &arrived.header;
        let debtor = debtors
            .iter()
            .position(|w| self.workers[*w].node == arrived.from);
        let Some(debtor) = debtor.filter(|_| sent.is_of(header)) else {
            self.counts.packets_useless += 1;
            return;
        };
        let now = sent.elapsed();
        match header.kind {
            Kind::Partial => {
                if round.accept(debtor, header, &arrived.body, now) != Accepted::New {
                    self.counts.packets_useless += 1;
                }
            }
            Kind::Ask => {
                let flags = number(round.asked(debtor));
                for chunk in arrived.asked() {
                    if let Some(body) = sent.chunks.get(usize::from(chunk)) {
                        self.send(
                            debtors[debtor],
                            Header {
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
        self.counts.asked_again += 1;
        if ask == Ask::Everything && sent.header.chunks <= RESEND_WHOLE {
            self.send_activation(worker, sent, number(round.asked(index)));
            return;
        }
        let assembly = round.assembly(index);
        let Header {
            encoding, chunks, ..
        } = Header::of_tensor(Kind::Ask, assembly.shape());
        let header = Header {
            encoding,
            chunks,
            kind: Kind::Ask,
            flags: ASK_PARTIAL,
            ..sent.header
        };
        for (chunk, bitmap) in assembly.missing_bitmaps() {
            self.send(worker, Header { chunk, ..header }, &bitmap);
        }
    }

    fn send_activation(&mut self, worker: usize, sent: &Sent, flags: u8) {
        for (chunk, body) in (0..).zip(&sent.chunks) {
            self.send(
                worker,
                Header {
                    chunk,
                    flags,
                    ..sent.header
                },
                body,
            );
        }
    }

    fn send(&mut self, worker: usize, header: Header, body: &[u8]) {
        self.counts.packets_sent += 1;
        self.counts.bytes_sent += (HEADER_BYTES + body.len()) as u64;
        self.workers[worker].link.send(header, body);
    }
}

/// The number of an asking as it fits into a header. Nobody is asked 255 times within a bound.
fn number(asked: usize) -> u8 {
    asked.min(255) as u8
}
