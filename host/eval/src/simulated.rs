//! A cluster whose network loses packets, on this machine, without clocks: what a round goes without is decided by the packets
//! that are lost and by how often they are asked for.

mod link;

use halo_engine::{Engine, EngineError, FeedForward, FeedForwardSource, FeedForwardStep};
use halo_fabric::{Assembly, Encoding, Header, Kind, Loss, TensorShape};
use halo_models::Package;
use halo_policy::{Debtor, Device, Order, Round, Verdict};
use halo_runtime::{Arrangement, Concealer, Concealment, Policies};
use serde::Serialize;

use crate::{EvalError, Tally};
use link::Link;

/// What schedulers are told of every worker: an answer comes after a millisecond, give or take a tenth.
const EXPECTED_US: u32 = 1000;
const SPREAD_US: u32 = 100;

/// What asking again takes: as long as a round waits before it asks, at the least.
const REPAIR_US: u32 = 400;

/// Links that lose more of the packets, there and back, have parity sent along.
const PARITY_LOSS: f32 = 0.005;

/// Who is needed is asked as often as this: with waits of up to 10 ms, what fits in the bound on a round.
const ASKED_AT_MOST: u32 = 80;

/// Whom rounds wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Synchronisation {
    /// For everything.
    Strict,
    /// For what the scheduler says is needed; for the rest until its patience ends.
    Relaxed,
    /// For nobody: nothing is asked for again, and there is no parity.
    DropLate,
}

/// A cluster to imitate, of a leader and workers that have memory for equal parts of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulatedOptions {
    /// Nodes beside the leader; 0 is the whole model on one machine.
    pub workers: usize,
    /// What a worker's link loses, each way.
    pub loss: Loss,
    /// Only the last worker's link loses anything.
    pub one_bad_node: bool,
    /// Which groups the nodes have.
    pub arrangement: Arrangement,
    /// Whom rounds wait for.
    pub synchronisation: Synchronisation,
    /// What takes the place of what is not waited for.
    pub conceal: Concealment,
    /// Seed of what is lost, and of a blind arrangement.
    pub seed: u64,
}

/// The feed-forward of such a cluster. Each row is a round of its own, as if its token were being generated.
#[derive(Debug)]
pub struct Simulated<'a> {
    options: SimulatedOptions,
    policies: &'a Policies,
    leader: FeedForward,
    workers: Vec<Worker>,
    concealer: Concealer,
    /// The residual stream of the round before, which scores are predicted from.
    earlier: Vec<f32>,
    /// What each row has gone without so far: the sum over its rounds.
    concealed: Vec<f32>,
    tally: Tally,
}

#[derive(Debug)]
struct Worker {
    feed_forward: FeedForward,
    /// By layer.
    groups: Vec<Vec<u32>>,
    /// Share of packets that its link loses there and back.
    loss: f32,
    link: Link,
}

impl<'a> Simulated<'a> {
    /// Places the model's groups by the scheduler in force, and loads them.
    ///
    /// # Errors
    ///
    /// The loss is impossible, the scheduler fails, or the model cannot be loaded.
    pub fn load(
        engine: &Engine,
        package: &Package,
        policies: &'a Policies,
        options: &SimulatedOptions,
    ) -> Result<Self, EvalError> {
        let (layers, groups) = (package.shape().layers, package.groups());
        let devices = devices(package, options);
        let answer = policies.scheduler().place(policies.model(), &devices, None);
        if let Some(fault) = answer.fault {
            return Err(EvalError::Policy(fault.to_string()));
        }
        let mut placement = answer.value;
        let arrangement = options.arrangement;
        arrangement.apply(&mut placement, policies.model(), &devices, options.seed);
        let of = |device: usize| -> Vec<Vec<u32>> {
            let layers = placement.owners.chunks(groups).take(layers);
            let owned = |owners: &[u32]| {
                let owned = (0..groups as u32).zip(owners);
                owned
                    .filter_map(|(group, owner)| (*owner as usize == device).then_some(group))
                    .collect()
            };
            layers.map(owned).collect()
        };
        let worker = |device: usize| -> Result<Worker, EvalError> {
            let groups = of(device);
            let loss = f64::from(devices[device].loss);
            let lossy = if loss > 0.0 {
                options.loss
            } else {
                Loss::Random { rate: 0.0 }
            };
            Ok(Worker {
                feed_forward: FeedForward::load(engine, package, &groups)?,
                groups,
                loss: loss as f32,
                link: Link::new(lossy, options.seed, device as u64)?,
            })
        };
        Ok(Self {
            options: *options,
            policies,
            leader: FeedForward::load(engine, package, &of(0))?,
            workers: (1..devices.len()).map(worker).collect::<Result<_, _>>()?,
            concealer: Concealer::new(options.conceal),
            earlier: Vec::new(),
            concealed: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// What has happened so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let rounds = self.tally.rounds.max(1) as f64;
        Tally {
            concealed: self.tally.concealed / rounds,
            ..self.tally
        }
    }

    /// Each worker's predicted share of a layer's contribution, for a row.
    fn shares(&self, layer: usize, earlier: &[f32]) -> Result<Vec<f32>, EvalError> {
        let mut scores = Vec::new();
        let fault = self
            .policies
            .predictor()
            .score(layer as u32, earlier, &mut scores);
        if let Some(fault) = fault {
            return Err(EvalError::Policy(fault.to_string()));
        }
        let share = |worker: &Worker| {
            let groups = &worker.groups[layer];
            // Without calibration there are no scores, and every group counts the same.
            let share: f32 = match &scores[..] {
                [] => groups.len() as f32 / self.policies.model().groups as f32,
                scores => groups.iter().map(|g| scores[*g as usize]).sum(),
            };
            share.min(1.0)
        };
        Ok(self.workers.iter().map(share).collect())
    }

    /// Whom a row's round waits for, and how often each is asked again before it goes on without it.
    fn orders(
        &self,
        layer: usize,
        row: usize,
        shares: &[f32],
    ) -> Result<Vec<(u8, u32)>, EvalError> {
        let (copies, asked) = match self.options.synchronisation {
            Synchronisation::Strict => (1, ASKED_AT_MOST),
            Synchronisation::DropLate => (1, 0),
            Synchronisation::Relaxed => {
                let verdict = self.verdict(layer, row, shares)?;
                let late = verdict.patience_us.saturating_sub(EXPECTED_US) / REPAIR_US;
                let order = |order: &Order| {
                    let asked = if order.needed {
                        ASKED_AT_MOST
                    } else {
                        late.min(ASKED_AT_MOST)
                    };
                    (order.copies, asked)
                };
                return Ok(verdict.orders.iter().map(order).collect());
            }
        };
        Ok(vec![(copies, asked); shares.len()])
    }

    fn verdict(&self, layer: usize, row: usize, shares: &[f32]) -> Result<Verdict, EvalError> {
        let debtors = self.workers.iter().zip(shares).enumerate();
        let round = Round {
            layer: layer as u32,
            rows: 1,
            debtors: debtors
                .map(|(index, (worker, &share))| Debtor {
                    device: index as u32 + 1,
                    share,
                    expected_us: EXPECTED_US,
                    spread_us: SPREAD_US,
                    loss: worker.loss,
                })
                .collect(),
            concealed: self.concealed[row] / layer.max(1) as f32,
        };
        let answer = self.policies.scheduler().admit(&round);
        match answer.fault {
            Some(fault) => Err(EvalError::Policy(fault.to_string())),
            None => Ok(answer.value),
        }
    }
}

/// The leader and the workers as schedulers see them. Their memory is so small that each computes an equal part.
fn devices(package: &Package, options: &SimulatedOptions) -> Vec<Device> {
    let nodes = 1 + options.workers;
    let part = (package.shape().layers * package.groups()).div_ceil(nodes) as u64;
    let (Loss::Random { rate } | Loss::Bursty { rate, .. }) = options.loss;
    let device = |index: usize| {
        let worker = index > 0;
        let bad = worker && (!options.one_bad_node || index == options.workers);
        Device {
            name: format!("node{index}"),
            leader: !worker,
            speed: 1e4,
            memory: part * package.group_bytes(),
            delay_us: if worker { EXPECTED_US } else { 0 },
            spread_us: if worker { SPREAD_US } else { 0 },
            loss: if bad {
                (1.0 - (1.0 - rate).powi(2)) as f32
            } else {
                0.0
            },
        }
    };
    (0..nodes).map(device).collect()
}

/// What a row is when it has gone over the network as a whole.
fn coded(row: &[f32]) -> Result<Assembly, EvalError> {
    let shape = shape(row.len())?;
    let mut assembly = Assembly::new(shape);
    for chunk in 0..shape.chunks() {
        send(&mut assembly, chunk, row);
    }
    Ok(assembly)
}

/// A row as it goes over the network by default.
fn shape(width: usize) -> Result<TensorShape, EvalError> {
    TensorShape::new(1, width, Encoding::Q8).map_err(|e| EvalError::Option(e.to_string()))
}

/// One chunk of a row arrives.
fn send(assembly: &mut Assembly, chunk: u16, row: &[f32]) {
    let shape = *assembly.shape();
    let header = Header {
        chunk,
        ..Header::of_tensor(Kind::Partial, &shape)
    };
    let mut body = Vec::with_capacity(shape.chunk_bytes(chunk));
    shape.encode_chunk(chunk, row, &mut body);
    assembly.accept(&header, &body);
}

impl FeedForwardSource for Simulated<'_> {
    type Error = EvalError;

    fn begin(&mut self, embedded: &[f32]) -> Result<(), EvalError> {
        self.earlier = embedded.to_vec();
        let rows = embedded.len() / self.policies.model().width as usize;
        self.concealed = vec![0.0; rows];
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EvalError> {
        let layer = step.layer;
        let width = self.policies.model().width as usize;
        self.leader.run(layer, step.normed, step.sum)?;
        if self.workers.is_empty() {
            return Ok(());
        }
        let mut arrived = Vec::with_capacity(step.normed.len());
        for row in step.normed.chunks_exact(width) {
            arrived.extend(coded(row)?.into_values());
        }
        let partial = |worker: &mut Worker| -> Result<Vec<f32>, EngineError> {
            let mut partial = vec![0.0; arrived.len()];
            worker.feed_forward.run(layer, &arrived, &mut partial)?;
            Ok(partial)
        };
        let partials = self
            .workers
            .iter_mut()
            .map(partial)
            .collect::<Result<Vec<_>, _>>()?;
        let shape = shape(width)?;
        let repairs = self.options.synchronisation != Synchronisation::DropLate;
        for (row, sum) in step.sum.chunks_exact_mut(width).enumerate() {
            let range = row * width..(row + 1) * width;
            let shares = self.shares(layer, &self.earlier[range.clone()])?;
            let orders = self.orders(layer, row, &shares)?;
            self.tally.rounds += 1;
            let workers = self.workers.iter_mut().zip(&partials).enumerate();
            for ((index, (worker, partial)), (share, (copies, asked))) in
                workers.zip(shares.iter().zip(orders))
            {
                let mut assembly = Assembly::new(shape);
                let values = &partial[range.clone()];
                let parity = repairs && worker.loss >= PARITY_LOSS;
                self.tally.asked_again +=
                    worker
                        .link
                        .round(shape.chunks(), copies, parity, asked, |chunk| {
                            send(&mut assembly, chunk, values);
                        });
                self.tally.partials += 1;
                if !assembly.complete() {
                    let missing = f32::from(assembly.missing_count()) / f32::from(shape.chunks());
                    self.concealed[row] += share * missing;
                    self.tally.concealed_partials += 1;
                    self.tally.concealed += f64::from(share * missing);
                }
                self.concealer.conceal(index, layer, &mut assembly);
                for (sum, value) in sum.iter_mut().zip(assembly.values()) {
                    *sum += value;
                }
            }
        }
        self.earlier.copy_from_slice(step.hidden);
        Ok(())
    }
}
