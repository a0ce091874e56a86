use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use halo_models::Package;

use super::block::{Block, regions};
use crate::loading::AHEAD;
use crate::{Engine, EngineError};

/// What streaming has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streamed {
    /// Bytes read.
    pub bytes: u64,
    /// How long the disk was waited for, by the thread that reads.
    pub reading: Duration,
    /// How long weights were packed, by the same thread, while the disk read on.
    pub packing: Duration,
    /// How long the computation waited for that thread.
    pub waiting: Duration,
}

/// Reads layers' groups round and round, ahead of their use.
///
/// Caching what was read last would be of no use: a scan that comes round finds that what it needs next was thrown out just
/// before. So nothing is kept but the ring of what comes next.
#[derive(Debug)]
pub(super) struct Stream {
    streamed: Vec<bool>,
    blocks: Receiver<Result<Block, EngineError>>,
    counters: Arc<Counters>,
    waiting: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    reading: AtomicU64,
    packing: AtomicU64,
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
        let streamed = groups.iter().map(|groups| !groups.is_empty()).collect();
        let (sender, blocks) = sync_channel(AHEAD);
        let counters = Arc::new(Counters::default());
        let reader = Reader {
            engine: engine.clone(),
            package: package.clone(),
            groups,
            counters: counters.clone(),
        };
        thread::Builder::new()
            .name("halo-stream".into())
            .spawn(move || reader.run(&sender))
            .map_err(EngineError::Thread)?;
        Ok(Self {
            streamed,
            blocks,
            counters,
            waiting: Duration::ZERO,
        })
    }

    /// The streamed groups of a layer; waits until they are there. A pass that was given up leaves layers unused, which are
    /// skipped here: the reader goes round anyway.
    pub(super) fn next(&mut self, layer: usize) -> Result<Option<Block>, EngineError> {
        if !self.streamed[layer] {
            return Ok(None);
        }
        let begun = Instant::now();
        let block = loop {
            let block = self
                .blocks
                .recv()
                .map_err(|_| EngineError::LoadingEnded)??;
            if block.layer() == layer {
                break block;
            }
        };
        self.waiting += begun.elapsed();
        Ok(Some(block))
    }

    pub(super) fn streamed(&self) -> Streamed {
        let nanos = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        Streamed {
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            reading: nanos(&self.counters.reading),
            packing: nanos(&self.counters.packing),
            waiting: self.waiting,
        }
    }
}

/// What the reading thread works with.
struct Reader {
    engine: Engine,
    package: Package,
    groups: Vec<Vec<u32>>,
    counters: Arc<Counters>,
}

impl Reader {
    /// Ends when nobody waits for the blocks any more, or with the first error.
    fn run(&self, sender: &mpsc::SyncSender<Result<Block, EngineError>>) {
        let streamed = |layer: &usize| !self.groups[*layer].is_empty();
        let layers: Vec<usize> = (0..self.groups.len()).filter(streamed).collect();
        for (index, &layer) in layers.iter().enumerate().cycle() {
            let block = self.read(layer, layers[(index + 1) % layers.len()]);
            let failed = block.is_err();
            if sender.send(block).is_err() || failed {
                return;
            }
        }
    }

    /// Reads and packs one layer's groups, while the disk begins with those of the next.
    fn read(&self, layer: usize, next: usize) -> Result<Block, EngineError> {
        let begun = Instant::now();
        let wanted = regions(&self.package, layer, &self.groups[layer])?;
        for region in &wanted {
            region.read()?;
        }
        for region in regions(&self.package, next, &self.groups[next])? {
            region.prefetch();
        }
        let read = Instant::now();
        let block = Block::pack(&self.engine, &self.package, layer, &self.groups[layer])?;
        let count = |counter: &AtomicU64, duration: Duration| {
            counter.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
        };
        count(&self.counters.reading, read - begun);
        count(&self.counters.packing, read.elapsed());
        for region in &wanted {
            self.counters
                .bytes
                .fetch_add(region.bytes(), Ordering::Relaxed);
            region.evict();
        }
        Ok(block)
    }
}
