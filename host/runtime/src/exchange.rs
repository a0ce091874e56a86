//! Sending and receiving for a leader's rounds.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use halo_fabric::{
    ASK_PARTIAL, Accepted, Block, Fabric, Header, Kind, Link, NodeId, Place, TensorShape,
};
use halo_policy::Order;

use crate::error::GenerationError;
use crate::inbox::{Arrived, LeaderInbox};
use crate::outgoing::{Recipient, Sent};
use crate::plan::Plan;
use crate::plan_slot::PlanSlot;
use crate::round::{Ask, Round, Standing};
use crate::sending::Sending;
use crate::telemetry::Counts;

/// An activation of at most this many packets is sent again whole when nothing came back; of a longer one the worker is asked
/// what it misses, which costs a round trip and saves a burst.
const RESEND_WHOLE: u16 = 4;

/// The leader's side of the network: the workers of the plan in force, and what comes from them.
pub(crate) struct Exchange {
    fabric: Fabric,
    slot: Arc<PlanSlot>,
    inbox: LeaderInbox,
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
    /// When its last packet came, from the beginning of its round.
    pub(crate) heard: Duration,
}

impl Exchange {
    pub(crate) fn new(fabric: Fabric, slot: Arc<PlanSlot>, inbox: LeaderInbox) -> Self {
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
        let (packets_sent, bytes_sent) = self.inbox.outgoing.traffic();
        Counts {
            packets_sent,
            bytes_sent,
            packets_lost: self.fabric.counters().dropped.packets,
            ..self.counts
        }
    }

    /// Makes the links to the workers of a plan.
    pub(crate) fn connect(&mut self, plan: &Plan) -> Result<(), GenerationError> {
        let workers = plan.devices.iter().enumerate().skip(1).filter(|(d, _)| {
            let heads = plan.heads.get(*d).into_iter().flatten();
            plan.groups[*d].iter().chain(heads).any(|g| !g.is_empty())
        });
        self.inbox.outgoing.missed.clear();
        self.workers = workers
            .map(|(device, node)| {
                let link = self.fabric.link(node)?;
                Ok(Worker {
                    device,
                    node: node.clone(),
                    link,
                    gone: self.slot.is_gone(node),
                    heard: Duration::ZERO,
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

    /// Indices of the workers that compute groups of a layer, or heads.
    pub(crate) fn debtors(&self, plan: &Plan, block: Block, layer: usize) -> Vec<usize> {
        let owes = |w: &usize| !plan.part(self.workers[*w].device, block, layer).is_empty();
        (0..self.workers.len()).filter(owes).collect()
    }

    /// The worker has not answered within the bound: tells the planner, and waits for it no more.
    pub(crate) fn suspect(&mut self, worker: usize) {
        self.workers[worker].gone = true;
        self.slot.suspect(&self.workers[worker].node);
    }

    /// Sends an activation to those who owe a partial for it, as often as is ordered. Of `name` only what names the round counts.
    /// `places` are those of an attention's rows.
    pub(crate) fn fan_out(
        &self,
        shape: &TensorShape,
        values: &[f32],
        name: &Header,
        places: &[Place],
        debtors: &[usize],
        orders: &[Order],
    ) -> Arc<Sent> {
        let recipients = debtors.iter().zip(orders).map(|(&worker, order)| {
            let worker = &self.workers[worker];
            let copies = if worker.gone { 0 } else { order.copies };
            Recipient::new(worker.node.clone(), Arc::clone(&worker.link), copies)
        });
        let sent = Arc::new(Sent::new(shape, values, name, places, recipients.collect()));
        self.inbox.outgoing.begin(&sent);
        sent
    }

    /// Sends workers again what they may have missed of earlier rounds of these texts, one activation each.
    pub(crate) fn mend(&self, places: &[Place]) {
        let outgoing = &self.inbox.outgoing;
        outgoing.missed.retain(places);
        for worker in self.workers.iter().filter(|worker| !worker.gone) {
            if let Some((sent, recipient)) = outgoing.missed.due(&worker.node) {
                outgoing.repeat(&sent, recipient, Sending::LAST.into());
            }
        }
    }

    /// Notes who has not answered at all, now that the round is over, and may have missed its activation.
    pub(crate) fn note_missed(&mut self, round: &Round, sent: &Arc<Sent>, places: &[Place]) {
        for debtor in round.silent() {
            self.inbox.outgoing.missed.note(sent, debtor, places);
            self.counts.holes += 1;
        }
    }

    /// Waits for what the round waits for, and asks again for what is lost or late.
    pub(crate) fn fan_in(&mut self, round: &mut Round, debtors: &[usize], sent: &Sent) {
        self.gather(round, debtors, sent);
        self.inbox.outgoing.end();
    }

    fn gather(&mut self, round: &mut Round, debtors: &[usize], sent: &Sent) {
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
                .packets
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
        let missed = &self.inbox.outgoing.missed;
        if header.kind == Kind::Partial && missed.has_come(&arrived.from, header) {
            self.counts.holes_filled += 1;
            return;
        }
        let debtor = debtors
            .iter()
            .position(|w| self.workers[*w].node == arrived.from);
        let Some(debtor) = debtor.filter(|_| sent.is_of(header)) else {
            // The parity of a partial that came whole comes when the round may be over.
            if !header.is_parity() {
                self.useless();
            }
            return;
        };
        let now = sent.elapsed();
        match header.kind {
            Kind::Partial => {
                self.workers[debtors[debtor]].heard = sent.until(arrived.at);
                let accepted = round.accept(debtor, header, &arrived.body, now);
                self.counts.made_up += u64::from(accepted == Accepted::New && header.is_parity());
                if !matches!(accepted, Accepted::New | Accepted::Spare) {
                    self.useless();
                } else if let Some(ask) = round.stalled(debtor, header, now) {
                    self.ask(round, debtor, debtors[debtor], ask, sent);
                }
            }
            // What it asks for has been sent already, unless that waits for this node to notice.
            Kind::Ask => {
                self.counts.asked_again += 1;
                let asked = round.asked(debtor);
                if asked > 0 && !self.inbox.outgoing.is_prompt() {
                    self.inbox.outgoing.repeat(sent, debtor, asked);
                }
                round.restarted(debtor, now);
            }
            _ => self.useless(),
        }
    }

    fn useless(&mut self) {
        self.counts.packets_useless += 1;
        self.fabric.count_useless();
    }

    fn ask(&mut self, round: &mut Round, index: usize, worker: usize, ask: Ask, sent: &Sent) {
        self.counts.asked_again += u64::from(ask != Ask::Next);
        if ask == Ask::Everything && sent.header().chunks <= RESEND_WHOLE {
            let asked = round.asked(index);
            self.inbox.outgoing.repeat(sent, index, asked);
            return;
        }
        let assembly = round.assembly_mut(index);
        let of_partial = Header::of_tensor(Kind::Ask, assembly.shape());
        let Some((chunk, bitmap)) = assembly.ask() else {
            return;
        };
        let header = Header {
            kind: Kind::Ask,
            encoding: of_partial.encoding,
            flags: ASK_PARTIAL,
            chunk,
            chunks: of_partial.chunks,
            ..*sent.header()
        };
        let link = &self.workers[worker].link;
        self.inbox.outgoing.send(link, header, &bitmap);
    }
}
