//! Rounds in which nothing is computed: what the network, and HALO on top of it, cost.

use std::time::{Duration, Instant};

use halo_fabric::{Fabric, Header, Kind, NodeId, TensorShape};
use halo_models::Package;
use halo_policy::{Order, Placement};
use serde::{Deserialize, Serialize};

use crate::arrival::Arrivals;
use crate::config::Sync;
use crate::error::NodeError;
use crate::exchange::Exchange;
use crate::inbox::LeaderInbox;
use crate::messages::{ASSIGN, Assign};
use crate::plan::Plan;
use crate::plan_slot::PlanSlot;
use crate::round::{Repair, Round};

/// How long the worker may take to agree.
const ASSIGN_PATIENCE: Duration = Duration::from_secs(10);

/// What rounds with one worker were like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pinged {
    /// Rounds.
    pub rounds: usize,
    /// Those that did not end within the bound.
    pub lost: usize,
    /// How long they took in the mean, in microseconds.
    pub mean_us: f64,
    /// Half of the rounds took at most this, in microseconds.
    pub median_us: f64,
    /// 95 of a hundred took at most this.
    pub p95_us: f64,
    /// 99 of a hundred took at most this.
    pub p99_us: f64,
    /// The longest, in microseconds.
    pub longest_us: f64,
    /// Times that something was asked for again.
    pub asked_again: u64,
    /// Lost packets of answers that their parity made up for.
    pub made_up: u64,
    /// Mean time of a packet there and one back, in microseconds, without the threads that a round goes through.
    pub round_trip_us: Option<f64>,
    /// Share of packets lost on the way there.
    pub loss_to: Option<f64>,
    /// Share of packets lost on the way back.
    pub loss_from: Option<f64>,
}

/// Rounds of `rows` rows with a worker that computes nothing.
pub(crate) struct Ping {
    fabric: Fabric,
    sync: Sync,
    exchange: Exchange,
    activation: TensorShape,
    partial: TensorShape,
    epoch: u32,
    worker: NodeId,
}

impl Ping {
    /// Has the worker agree.
    pub(crate) async fn prepare(
        fabric: Fabric,
        package: &Package,
        sync: Sync,
        inbox: LeaderInbox,
        worker: NodeId,
        rows: usize,
    ) -> Result<Self, NodeError> {
        let shape = package.shape();
        let fits = |encoding| TensorShape::new(rows, shape.width, encoding);
        let activation = fits(sync.activation).map_err(crate::GenerationError::from)?;
        let partial = fits(sync.partial).map_err(crate::GenerationError::from)?;
        let epoch = rand::random();
        let nothing = vec![Vec::new(); shape.layers];
        let wish = Assign {
            leader: fabric.node().clone(),
            epoch,
            keep: [epoch].into(),
            model: package.identity().to_owned(),
            groups: nothing.clone(),
            standbys: nothing,
            heads: None,
            activation: sync.activation,
            partial: sync.partial,
        };
        fabric
            .call::<_, ()>(&worker, ASSIGN, &wish, ASSIGN_PATIENCE)
            .await?;
        let (slot, _) = PlanSlot::new();
        let mut exchange = Exchange::new(fabric.clone(), slot, inbox);
        // As if the worker had the only group of the only layer.
        exchange.connect(&Plan {
            epoch,
            devices: vec![fabric.node().clone(), worker.clone()],
            placement: Placement::default(),
            groups: vec![vec![Vec::new()], vec![vec![0]]],
            heads: Vec::new(),
            heads_since: epoch,
        })?;
        Ok(Self {
            fabric,
            sync,
            exchange,
            activation,
            partial,
            epoch,
            worker,
        })
    }

    /// Does so many rounds, with each packet sent so often.
    pub(crate) fn run(mut self, rounds: usize, copies: u8) -> Pinged {
        let generation = rand::random();
        let values: Vec<f32> = (0..self.activation.values())
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let orders = [Order {
            needed: true,
            copies,
        }];
        let (mut arrivals, mut times, mut lost) = (Arrivals::default(), Vec::new(), 0);
        for step in 0..rounds {
            let began = Instant::now();
            let name = Header {
                generation,
                epoch: self.epoch,
                step: step as u32,
                ..Header::of_tensor(Kind::Activation, &self.activation)
            };
            let sent = self
                .exchange
                .fan_out(&self.activation, &values, &name, &[], &[0], &orders);
            let rows = self.activation.rows();
            let expected = arrivals.of(&self.worker, rows).late();
            let bound = self.sync.bound();
            let mut round = Round::new(
                self.partial,
                [(true, expected)],
                Repair::ADAPTIVE,
                bound,
                bound,
            );
            self.exchange.fan_in(&mut round, &[0], &sent);
            if let Some(took) = round.took(0) {
                arrivals.observe(&self.worker, rows, took);
            }
            lost += usize::from(!round.complete());
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let index = (q * times.len() as f64).ceil() as usize;
            times.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        let estimate = self
            .fabric
            .link(&self.worker)
            .map(|l| l.estimate())
            .unwrap_or_default();
        Pinged {
            rounds,
            lost,
            mean_us: times.iter().sum::<f64>() / times.len().max(1) as f64,
            median_us: quantile(0.5),
            p95_us: quantile(0.95),
            p99_us: quantile(0.99),
            longest_us: quantile(1.0),
            asked_again: self.exchange.counts.asked_again,
            made_up: self.exchange.counts.made_up,
            round_trip_us: estimate.round_trip_us,
            loss_to: estimate.loss_to,
            loss_from: estimate.loss_from,
        }
    }
}
