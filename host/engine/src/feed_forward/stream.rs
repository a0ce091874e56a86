use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use halo_models::Package;
use tracing::trace_span;

use super::block::regions;
use super::unpacked;
use crate::{Engine, EngineError, TIMELINE};

/// What streaming has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streamed {
    /// Bytes read.
    pub bytes: u64,
    /// How long the disk was waited for, by the thread that reads.
    pub reading: Duration,
    /// How long the computation waited for that thread.
    pub waiting: Duration,
}

/// Reads layers' groups round and round, one layer ahead of their use.
///
/// Caching what was read last would be of no use: a scan that comes round finds that what it needs next was thrown out just
/// before. So nothing is kept but what comes next.
#[derive(Debug)]
pub(super) struct Stream {
    package: Package,
    threads: usize,
    /// Of each layer.
    groups: Vec<Vec<u32>>,
    /// Exactly one layer has been ordered and not taken yet, unless there is nothing to stream.
    orders: Sender<Order>,
    arrived: Receiver<Result<usize, EngineError>>,
    counters: Arc<Counters>,
    waiting: Duration,
}

/// What the reading thread is to do with a layer's groups.
#[derive(Debug)]
enum Order {
    Read(usize),
    Evict(usize),
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    reading: AtomicU64,
}

impl Stream {
    pub(super) fn start(
        engine: &Engine,
        package: &Package,
        groups: Vec<Vec<u32>>,
    ) -> Result<Self, EngineError> {
        for (layer, groups) in groups.iter().enumerate() {
            regions(package, layer, groups)?;
        }
        let (orders, ordered) = channel();
        let (sender, arrived) = channel();
        let counters = Arc::new(Counters::default());
        let reader = Reader {
            package: package.clone(),
            groups: groups.clone(),
            counters: counters.clone(),
        };
        thread::Builder::new()
            .name("halo-stream".into())
            .spawn(move || reader.run(&ordered, &sender))
            .map_err(EngineError::Thread)?;
        let stream = Self {
            package: package.clone(),
            threads: engine.threads(),
            groups,
            orders,
            arrived,
            counters,
            waiting: Duration::ZERO,
        };
        if let Some(first) = stream.from(0) {
            stream.order(Order::Read(first))?;
        }
        Ok(stream)
    }

    /// Adds the contribution of a layer's streamed groups for `normed` to `partial`, both `[rows, width]`.
    pub(super) fn add(
        &mut self,
        layer: usize,
        normed: &[f32],
        partial: &mut [f32],
    ) -> Result<(), EngineError> {
        let groups = &self.groups[layer];
        if groups.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let waiting = trace_span!(target: TIMELINE, "wait for the disk", layer).entered();
        loop {
            let arrived = self
                .arrived
                .recv()
                .map_err(|_| EngineError::LoadingEnded)??;
            if arrived == layer {
                break;
            }
            // The pass for which it was read has been given up.
            self.order(Order::Evict(arrived))?;
            self.order(Order::Read(layer))?;
        }
        drop(waiting);
        self.waiting += begun.elapsed();
        if let Some(next) = self.from(layer + 1).or_else(|| self.from(0)) {
            self.order(Order::Read(next))?;
        }
        let _computing = trace_span!(target: TIMELINE, "streamed feed-forward", layer).entered();
        unpacked::add(
            &self.package,
            (layer, groups),
            self.threads,
            normed,
            partial,
        )?;
        self.order(Order::Evict(layer))
    }

    /// The first layer of which something is streamed, from a given one on.
    fn from(&self, layer: usize) -> Option<usize> {
        (layer..self.groups.len()).find(|layer| !self.groups[*layer].is_empty())
    }

    fn order(&self, order: Order) -> Result<(), EngineError> {
        self.orders
            .send(order)
            .map_err(|_| EngineError::LoadingEnded)
    }

    pub(super) fn streamed(&self) -> Streamed {
        Streamed {
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            reading: Duration::from_nanos(self.counters.reading.load(Ordering::Relaxed)),
            waiting: self.waiting,
        }
    }
}

/// What the reading thread works with.
struct Reader {
    package: Package,
    groups: Vec<Vec<u32>>,
    counters: Arc<Counters>,
}

impl Reader {
    /// Ends when nobody orders anything any more, or with the first error.
    fn run(&self, orders: &Receiver<Order>, arrived: &Sender<Result<usize, EngineError>>) {
        for order in orders {
            match order {
                Order::Read(layer) => {
                    let read = self.read(layer).map(|()| layer);
                    let failed = read.is_err();
                    if arrived.send(read).is_err() || failed {
                        return;
                    }
                }
                Order::Evict(layer) => {
                    let regions = regions(&self.package, layer, &self.groups[layer]);
                    regions.iter().flatten().for_each(|region| region.evict());
                }
            }
        }
    }

    fn read(&self, layer: usize) -> Result<(), EngineError> {
        let _reading = trace_span!(target: TIMELINE, "read", layer).entered();
        let begun = Instant::now();
        let regions = regions(&self.package, layer, &self.groups[layer])?;
        regions.iter().for_each(|region| region.prefetch());
        for region in &regions {
            region.read()?;
            self.counters
                .bytes
                .fetch_add(region.bytes(), Ordering::Relaxed);
        }
        let nanos = begun.elapsed().as_nanos() as u64;
        self.counters.reading.fetch_add(nanos, Ordering::Relaxed);
        Ok(())
    }
}
