//! The worker's side of a round: gather an activation, compute, answer, and answer again when asked.
//!
//! A worker has no timer. It asks when it sees that something was lost; what it cannot see, the leader notices and asks. So a
//! worker that is left alone costs nothing.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use halo_engine::TIMELINE;
use halo_fabric::{ASK_PARTIAL, Block, Fabric, Header, Kind, NodeId, Parity, TensorShape, WINDOW};
use tracing::{debug, trace_span, warn};

use crate::assignments::{Assignment, Assignments};
use crate::gathering::{Gathering, Step};
use crate::inbox::Arrived;
use crate::pace::Paces;

/// Rounds remembered, over all leaders, so that asking again costs no computing. A leader has one under way at a time.
const ROUNDS: usize = 32;

/// Rows of a round at most: more than a leader sends, and few enough that `ROUNDS` of them are a bounded amount of memory.
const MAX_ROWS: u16 = 64;

/// Whose round it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    leader: NodeId,
    generation: u64,
    epoch: u32,
    step: u32,
    layer: u16,
    block: Block,
}

#[derive(Debug)]
struct Work {
    key: Key,
    gathering: Gathering,
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    shape: TensorShape,
    values: Vec<f32>,
}

/// Serves rounds until the inbox is closed.
pub(crate) fn serve(
    fabric: &Fabric,
    assignments: &Assignments,
    width: usize,
    inbox: &Receiver<Arrived>,
) {
    let mut worker = Worker {
        fabric,
        assignments,
        width,
        rounds: VecDeque::new(),
    };
    while let Ok(arrived) = inbox.recv() {
        worker.handle(&arrived);
    }
}

struct Worker<'a> {
    fabric: &'a Fabric,
    assignments: &'a Assignments,
    width: usize,
    /// The latest last.
    rounds: VecDeque<Work>,
}

impl Worker<'_> {
    fn handle(&mut self, arrived: &Arrived) {
        let header = &arrived.header;
        let key = Key {
            leader: arrived.from.clone(),
            generation: header.generation,
            epoch: header.epoch,
            step: header.step,
            layer: header.layer,
            block: header.block,
        };
        let Some(assignment) = self.assignments.get(&key.leader, key.epoch) else {
            self.fabric.count_useless();
            debug!(leader = %key.leader, epoch = key.epoch, "packet for a placement that this node does not have");
            return;
        };
        let mut assignment = assignment.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = self.round(&key, header, &assignment) else {
            self.fabric.count_useless();
            debug!(leader = %key.leader, rows = header.rows, width = header.width, "packet of a shape that no round here has");
            return;
        };
        match header.kind {
            Kind::Activation => self.activation(index, arrived, &mut assignment),
            Kind::Ask if header.flags == ASK_PARTIAL => self.asked(index, arrived),
            _ => {}
        }
    }

    /// The round's place in the memory, made if it is new. `None` if it cannot be a round.
    fn round(&mut self, key: &Key, header: &Header, assignment: &Assignment) -> Option<usize> {
        if let Some(index) = self.rounds.iter().rposition(|w| w.key == *key) {
            return Some(index);
        }
        if header.rows > MAX_ROWS || header.width as usize != self.width {
            return None;
        }
        if key.block == Block::Attention && assignment.attending.is_none() {
            return None;
        }
        let shape =
            TensorShape::new(usize::from(header.rows), self.width, assignment.activation).ok()?;
        if self.rounds.len() >= ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Work {
            key: key.clone(),
            gathering: Gathering::new(shape),
            partial: None,
        });
        Some(self.rounds.len() - 1)
    }

    fn activation(&mut self, index: usize, arrived: &Arrived, assignment: &mut Assignment) {
        let work = &mut self.rounds[index];
        match work.gathering.take(&arrived.header, &arrived.body) {
            Step::Nothing => {}
            Step::Useless => self.fabric.count_useless(),
            Step::Ask => self.ask(index),
            Step::Compute { copies } => self.compute(index, copies, assignment),
            Step::Answer { copies } => self.answer_whole(index, copies),
        }
    }

    /// Computes the partial of an activation that is whole, and answers with it.
    fn compute(&mut self, index: usize, copies: u8, assignment: &mut Assignment) {
        let work = &mut self.rounds[index];
        let Key {
            generation,
            step,
            layer,
            ..
        } = work.key;
        // It ends before the answer is sent: when that is done, the leader may be done with the round.
        let span = match work.key.block {
            Block::FeedForward => trace_span!(target: TIMELINE, "round", layer, step, generation),
            Block::Attention => {
                trace_span!(target: TIMELINE, "attention round", layer, step, generation)
            }
        };
        let partial = span.in_scope(|| compute(work, assignment, self.assignments.paces()));
        drop(span);
        match partial {
            Ok(partial) => {
                work.partial = Some(partial);
                trace_span!(target: TIMELINE, "answer", layer)
                    .in_scope(|| self.answer_whole(index, copies));
            }
            Err(error) => {
                warn!(leader = %work.key.leader, layer = work.key.layer, "cannot compute: {error}");
            }
        }
    }

    /// The leader misses chunks of a partial.
    fn asked(&mut self, index: usize, arrived: &Arrived) {
        if self.rounds[index].partial.is_some() {
            self.answer(index, 1, arrived.asked(), false);
        } else {
            // What was lost is the activation.
            self.ask(index);
        }
    }

    /// Asks for what is missing of an activation.
    fn ask(&mut self, index: usize) {
        let work = &mut self.rounds[index];
        let header = work.header(Kind::Ask, work.gathering.activation().shape());
        let Ok(link) = self.fabric.link(&work.key.leader) else {
            return;
        };
        if let Some((chunk, bitmap)) = work.gathering.ask() {
            link.send(Header { chunk, ..header }, &bitmap);
        }
    }

    /// Sends the first packets of the partial, each so often, as the activation came: with their parity or without.
    fn answer_whole(&self, index: usize, copies: u8) {
        let parity = self.rounds[index].gathering.parity();
        self.answer(index, copies, 0..WINDOW, parity);
    }

    /// Sends chunks of the partial, each so often.
    fn answer(&self, index: usize, copies: u8, chunks: impl Iterator<Item = u16>, parity: bool) {
        let work = &self.rounds[index];
        let (Some(partial), Ok(link)) = (&work.partial, self.fabric.link(&work.key.leader)) else {
            return;
        };
        let mut parity = Parity::new(&partial.shape).filter(|_| parity);
        let header = Header {
            parity: parity.is_some(),
            ..work.header(Kind::Partial, &partial.shape)
        };
        let send = |chunk, body: &[u8]| {
            (0..copies).for_each(|_| link.send(Header { chunk, ..header }, body));
        };
        let mut body = Vec::new();
        for chunk in chunks.take_while(|chunk| *chunk < header.chunks) {
            body.clear();
            partial
                .shape
                .encode_chunk(chunk, &partial.values, &mut body);
            send(chunk, &body);
            if let Some(parity) = &mut parity {
                parity.add(&body);
            }
        }
        if let Some(parity) = parity {
            send(header.chunks, parity.body());
        }
    }
}

impl Work {
    fn header(&self, kind: Kind, shape: &TensorShape) -> Header {
        Header {
            layer: self.key.layer,
            block: self.key.block,
            flags: if kind == Kind::Partial {
                self.gathering.answered().flags()
            } else {
                0
            },
            generation: self.key.generation,
            epoch: self.key.epoch,
            step: self.key.step,
            ..Header::of_tensor(kind, shape)
        }
    }
}

fn compute(work: &Work, assignment: &mut Assignment, paces: &Paces) -> Result<Partial, String> {
    let activation = work.gathering.activation();
    let shape = TensorShape::new(
        activation.shape().rows(),
        activation.shape().width(),
        assignment.partial,
    )
    .map_err(|e| e.to_string())?;
    let mut values = vec![0f32; shape.values()];
    let layer = usize::from(work.key.layer);
    match (work.key.block, &assignment.attending) {
        (Block::Attention, Some(attending)) => {
            let mut attending = attending.lock().unwrap_or_else(PoisonError::into_inner);
            let places = work.gathering.places();
            attending.run(layer, places, activation.values(), &mut values)?;
        }
        _ => {
            let began = Instant::now();
            assignment
                .feed_forward
                .run(layer, activation.values(), &mut values)
                .map_err(|e| e.to_string())?;
            if shape.rows() == 1 {
                let groups = assignment.counts.get(layer).copied().unwrap_or(0);
                paces.add(&work.key.leader, groups, began.elapsed());
            }
        }
    }
    Ok(Partial { shape, values })
}
