//! The worker's side of a round: gather an activation, compute, answer, and answer again when asked.
//!
//! A worker has no timer. Whatever is lost, the leader notices and asks; so a worker that is left alone costs nothing.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::mpsc::Receiver;

use halo_fabric::{ASK_PARTIAL, Accepted, Assembly, Fabric, Header, Kind, NodeId, TensorShape};
use tracing::{debug, warn};

use crate::assignments::{Assignment, Assignments};
use crate::inbox::Arrived;

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
}

#[derive(Debug)]
struct Work {
    key: Key,
    activation: Assembly,
    partial: Option<Partial>,
    /// The leader's last asking that was answered in full; see `Header::flags`.
    answered: u8,
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
        };
        let Some(assignment) = self.assignments.get(&key.leader, key.epoch) else {
            debug!(leader = %key.leader, epoch = key.epoch, "packet for a placement that this node does not have");
            return;
        };
        let mut assignment = assignment.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = self.round(&key, header, &assignment) else {
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
        let shape =
            TensorShape::new(usize::from(header.rows), self.width, assignment.activation).ok()?;
        if self.rounds.len() >= ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Work {
            key: key.clone(),
            activation: Assembly::new(shape),
            partial: None,
            answered: 0,
        });
        Some(self.rounds.len() - 1)
    }

    fn activation(&mut self, index: usize, arrived: &Arrived, assignment: &mut Assignment) {
        let work = &mut self.rounds[index];
        if let Accepted::Rejected(reason) = work.activation.accept(&arrived.header, &arrived.body) {
            debug!(leader = %work.key.leader, ?reason, "activation refused");
            return;
        }
        if !work.activation.complete() {
            return;
        }
        let asking = arrived.header.flags;
        if work.partial.is_none() {
            match compute(work, assignment) {
                Ok(partial) => work.partial = Some(partial),
                Err(error) => {
                    warn!(leader = %work.key.leader, layer = work.key.layer, "cannot compute: {error}");
                    return;
                }
            }
        } else if asking <= work.answered {
            // A duplicate, or the second chunk of an activation that was sent again and answered already.
            return;
        }
        work.answered = asking;
        self.answer(index, None);
    }

    /// The leader misses chunks of a partial.
    fn asked(&self, index: usize, arrived: &Arrived) {
        let work = &self.rounds[index];
        if work.partial.is_some() {
            self.answer(index, Some(arrived));
            return;
        }
        // What was lost is the activation. Only what is missing of it is asked for.
        let Ok(link) = self.fabric.link(&work.key.leader) else {
            return;
        };
        let header = work.header(Kind::Ask, work.activation.shape());
        for (first, bitmap) in work.activation.missing_bitmaps() {
            link.send(
                Header {
                    chunk: first,
                    ..header
                },
                &bitmap,
            );
        }
    }

    /// Sends the partial: all of it, or the chunks that are asked for.
    fn answer(&self, index: usize, asked: Option<&Arrived>) {
        let work = &self.rounds[index];
        let (Some(partial), Ok(link)) = (&work.partial, self.fabric.link(&work.key.leader)) else {
            return;
        };
        let header = work.header(Kind::Partial, &partial.shape);
        let mut body = Vec::new();
        let mut send = |chunk: u16| {
            if chunk < partial.shape.chunks() {
                body.clear();
                partial
                    .shape
                    .encode_chunk(chunk, &partial.values, &mut body);
                link.send(Header { chunk, ..header }, &body);
            }
        };
        match asked {
            None => (0..partial.shape.chunks()).for_each(&mut send),
            Some(arrived) => arrived.asked().for_each(&mut send),
        }
    }
}

impl Work {
    fn header(&self, kind: Kind, shape: &TensorShape) -> Header {
        Header {
            layer: self.key.layer,
            flags: if kind == Kind::Partial {
                self.answered
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

fn compute(work: &Work, assignment: &mut Assignment) -> Result<Partial, String> {
    let activation = &work.activation;
    let shape = TensorShape::new(
        activation.shape().rows(),
        activation.shape().width(),
        assignment.partial,
    )
    .map_err(|e| e.to_string())?;
    let mut values = vec![0f32; shape.values()];
    assignment
        .feed_forward
        .run(
            usize::from(work.key.layer),
            activation.values(),
            &mut values,
        )
        .map_err(|e| e.to_string())?;
    Ok(Partial { shape, values })
}
