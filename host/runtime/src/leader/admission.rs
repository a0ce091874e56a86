//! What a leader waits for in a round: by importance, links and mode.

use std::time::Duration;

use halo_fabric::{Block, TensorShape, Transport};
use halo_policy::{Debtor, Order, Round as Admission, Verdict};

use super::Leader;
use crate::config::SyncMode;
use crate::error::GenerationError;
use crate::round::{Repair, Round};

/// A bound on waiting for TCP and for its imitation, which back off for minutes.
const TCP_BOUND: Duration = Duration::from_secs(120);

/// Rows that are computed in about the time of a round trip; a round with more is bounded by as many times more.
const ROWS_IN_BOUND: u32 = 8;

impl Leader {
    /// TCP or its imitation: waits for everything, and sends it once.
    pub(super) fn is_like_tcp(&self) -> bool {
        self.transport == Transport::Tcp || self.sync.mode == SyncMode::LikeTcp
    }

    /// What a round waits for, and how.
    pub(super) fn expected(
        &self,
        block: Block,
        rows: usize,
        debtors: &[usize],
        verdict: &Verdict,
    ) -> Result<Round, GenerationError> {
        let expected = debtors.iter().zip(&verdict.orders).map(|(w, order)| {
            (
                order.needed,
                self.arrivals[block as usize]
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
        let shape = TensorShape::new(rows, self.shape.width, self.sync.partial)?;
        Ok(Round::new(shape, expected, repair, patience, bound))
    }

    /// Predicted share of a layer's contribution that a device computes.
    pub(super) fn share(&self, device: usize, block: Block, layer: usize) -> f32 {
        let groups = self.plan.part(device, block, layer);
        if block == Block::Attention {
            groups.len() as f32 / self.shape.kv_heads as f32
        } else if self.scores.len() == self.groups {
            let share: f32 = groups.iter().map(|g| self.scores[*g as usize]).sum();
            // A whole layer's may come out a little above 1, which is no share.
            share.min(1.0)
        } else {
            groups.len() as f32 / self.groups as f32
        }
    }

    /// Whom to wait for, and how often to send.
    pub(super) fn verdict(
        &mut self,
        block: Block,
        layer: usize,
        rows: usize,
        debtors: &[usize],
        shares: &[f32],
    ) -> Verdict {
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
            let arrival = self.arrivals[block as usize].of(&worker.node, rows);
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
    pub(super) fn predict(&mut self, layer: usize, hidden: &[f32]) {
        if layer >= self.plan.groups[0].len() {
            return;
        }
        let mut mean = Vec::new();
        for end in &self.ends {
            let row = &hidden[end * self.shape.width..][..self.shape.width];
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
