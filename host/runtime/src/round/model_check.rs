//! Every course that a small round can take: two workers, two packets each way, and a network that at any time delivers, loses,
//! repeats or holds up whatever is under way. Packets of one direction do not overtake one another; zenoh drops those that do.

use std::collections::{HashMap, HashSet, VecDeque};

use halo_fabric::{Encoding, Kind, Parity};

use super::*;
use crate::gathering::{Gathering, Step};

const WORKERS: usize = 2;

/// Packets that the network may lose in one course, and repeat.
const LOSSES: u8 = 2;
const REPEATS: u8 = 1;

/// Explored: what happens until something is asked for again because it is late, and all that comes of that. What follows is
/// tried in one way only: nothing more is lost.
const EXPLORED: Duration = Duration::from_millis(1);

const BOUND: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_millis(2);

/// One row in two packets.
fn shape() -> TensorShape {
    TensorShape::new(1, 352, Encoding::F32).unwrap()
}

/// The values that are sent, there and back.
fn sent() -> Vec<f32> {
    (0..352).map(|i| 1.0 + i as f32).collect()
}

/// The number of the parity packet.
const PARITY: u16 = 2;

fn body(chunk: u16) -> Vec<u8> {
    if chunk == PARITY {
        let mut parity = Parity::new(&shape()).unwrap();
        (0..PARITY).for_each(|chunk| parity.add(&body(chunk)));
        return parity.body().to_vec();
    }
    let mut body = Vec::new();
    shape().encode_chunk(chunk, &sent(), &mut body);
    body
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Packet {
    /// A chunk of an activation or partial, or its parity, with its flags, and whether the parity comes with it.
    Tensor(u16, u8, bool),
    /// Chunks asked for: of a partial on the way there, of an activation on the way back.
    Ask(Vec<u16>),
}

#[derive(Debug, Clone)]
struct State {
    round: Round,
    workers: Vec<Gathering>,
    /// By worker: there and back.
    under_way: Vec<[VecDeque<Packet>; 2]>,
    /// Whether tensors are sent with their parity.
    parity: bool,
    /// By worker: the packets of tensors that have come there and back.
    came: Vec<[HashSet<u16>; 2]>,
    now: Duration,
    losses: u8,
    repeats: u8,
}

/// Which way a packet goes.
const THERE: usize = 0;
const BACK: usize = 1;

impl State {
    /// A round in which each worker is needed or not, with all activations sent.
    fn new(needed: [bool; WORKERS], copies: u8, parity: bool) -> Self {
        let expected = Duration::from_millis(1);
        let debtors = needed.map(|needed| (needed, expected));
        let mut state = Self {
            round: Round::new(shape(), debtors, Repair::ADAPTIVE, PATIENCE, BOUND),
            workers: vec![Gathering::new(shape()); WORKERS],
            under_way: vec![Default::default(); WORKERS],
            parity,
            came: vec![Default::default(); WORKERS],
            now: Duration::ZERO,
            losses: LOSSES,
            repeats: REPEATS,
        };
        for worker in 0..WORKERS {
            state.send_whole(worker, THERE, Sending::answer_to(0, copies), copies, parity);
        }
        state
    }

    fn send_whole(
        &mut self,
        worker: usize,
        way: usize,
        sending: Sending,
        copies: u8,
        parity: bool,
    ) {
        let packets = if parity { PARITY + 1 } else { PARITY };
        let queue = &mut self.under_way[worker][way];
        for chunk in 0..packets {
            for _ in 0..copies {
                queue.push_back(Packet::Tensor(chunk, sending.flags(), parity));
            }
        }
    }

    fn send_asked(&mut self, worker: usize, way: usize, chunks: Vec<u16>, sending: Sending) {
        let packets = chunks
            .into_iter()
            .map(|chunk| Packet::Tensor(chunk, sending.flags(), false));
        self.under_way[worker][way].extend(packets);
    }

    /// The next packet arrives.
    fn deliver(&mut self, worker: usize, way: usize) {
        let packet = self.under_way[worker][way].pop_front().expect("a packet");
        if way == THERE {
            self.at_worker(worker, packet);
        } else {
            self.at_leader(worker, packet);
        }
    }

    /// What `worker.rs` does.
    fn at_worker(&mut self, worker: usize, packet: Packet) {
        let gathering = &mut self.workers[worker];
        match packet {
            Packet::Tensor(chunk, flags, parity) => {
                let header = Header {
                    chunk,
                    flags,
                    parity,
                    ..Header::of_tensor(Kind::Activation, &shape())
                };
                self.came[worker][THERE].insert(chunk);
                match gathering.take(&header, &body(chunk)) {
                    Step::Nothing | Step::Useless => {}
                    Step::Ask => self.ask_for_activation(worker),
                    Step::Compute { copies } | Step::Answer { copies } => {
                        let (sending, parity) = (gathering.answered(), gathering.parity());
                        self.send_whole(worker, BACK, sending, copies, parity);
                    }
                }
            }
            Packet::Ask(chunks) if gathering.activation().complete() => {
                let sending = gathering.answered();
                self.send_asked(worker, BACK, chunks, sending);
            }
            Packet::Ask(_) => self.ask_for_activation(worker),
        }
    }

    fn ask_for_activation(&mut self, worker: usize) {
        let missing = self.workers[worker].activation().missing().collect();
        self.workers[worker].ask();
        self.under_way[worker][BACK].push_back(Packet::Ask(missing));
    }

    /// What `exchange.rs` and `outgoing.rs` do.
    fn at_leader(&mut self, worker: usize, packet: Packet) {
        match packet {
            Packet::Tensor(chunk, flags, parity) => {
                let header = Header {
                    chunk,
                    flags,
                    parity,
                    ..Header::of_tensor(Kind::Partial, &shape())
                };
                self.came[worker][BACK].insert(chunk);
                let accepted = self.round.accept(worker, &header, &body(chunk), self.now);
                if matches!(accepted, Accepted::New | Accepted::Spare)
                    && let Some(ask) = self.round.stalled(worker, &header, self.now)
                {
                    self.ask(worker, ask);
                }
            }
            Packet::Ask(chunks) => {
                self.send_asked(worker, THERE, chunks, Sending::answer_to(0, 1));
                self.round.restarted(worker, self.now);
            }
        }
    }

    fn ask(&mut self, worker: usize, ask: Ask) {
        if ask == Ask::Everything {
            let sending = Sending::answer_to(self.round.asked(worker), 1);
            self.send_whole(worker, THERE, sending, 1, self.parity);
        } else {
            let missing = self.round.assembly(worker).missing().collect();
            self.round.assembly_mut(worker).ask();
            self.under_way[worker][THERE].push_back(Packet::Ask(missing));
        }
    }

    /// Time passes until the round has something to do. False if it is over.
    fn wait(&mut self) -> bool {
        let Standing::Waiting(until) = self.round.standing(self.now) else {
            return false;
        };
        self.now = until;
        for (worker, ask) in self.round.due(self.now) {
            self.ask(worker, ask);
        }
        true
    }

    /// The directions in which something is under way.
    fn busy(&self) -> Vec<(usize, usize)> {
        let ways = (0..WORKERS).flat_map(|worker| [(worker, THERE), (worker, BACK)]);
        ways.filter(|&(worker, way)| !self.under_way[worker][way].is_empty())
            .collect()
    }

    /// Every state that can follow.
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        if self.round.standing(self.now) == Standing::Over {
            return next;
        }
        let mut then = |change: &dyn Fn(&mut Self)| {
            let mut state = self.clone();
            change(&mut state);
            next.push(state);
        };
        for (worker, way) in self.busy() {
            then(&|state| state.deliver(worker, way));
            if self.losses > 0 {
                then(&|state| {
                    state.losses -= 1;
                    state.under_way[worker][way].pop_front();
                });
            }
            if self.repeats > 0 {
                then(&|state| {
                    state.repeats -= 1;
                    let first = state.under_way[worker][way][0].clone();
                    state.under_way[worker][way].push_front(first);
                });
            }
        }
        if self.now < EXPLORED {
            then(&|state| {
                state.wait();
            });
        }
        next
    }

    /// What makes this state another one than those before it.
    fn key(&self) -> impl std::hash::Hash + Eq + use<> {
        let assembly = |a: &Assembly, came: &HashSet<u16>| {
            let header = |chunk| Header {
                chunk,
                ..Header::of_tensor(Kind::Partial, &shape())
            };
            let last = (0..2).find(|chunk| a.is_last(&header(*chunk)));
            (
                a.missing().collect::<Vec<_>>(),
                last,
                came.contains(&PARITY),
            )
        };
        let workers = self.workers.iter().zip(&self.round.debts).zip(&self.came);
        let workers: Vec<_> = workers
            .map(|((worker, debt), came)| {
                let activation = assembly(worker.activation(), &came[THERE]);
                let partial = assembly(&debt.assembly, &came[BACK]);
                let asked = (debt.asked.clone(), debt.next_ask, debt.wait, debt.mended);
                let answered = (worker.answered().number, worker.parity());
                (activation, answered, partial, asked)
            })
            .collect();
        let left = (self.losses, self.repeats);
        (workers, self.under_way.clone(), self.now, left)
    }

    /// What holds in every state.
    fn check(&self, needed: [bool; WORKERS]) {
        let over = self.round.standing(self.now) == Standing::Over;
        for (worker, needed) in needed.into_iter().enumerate() {
            let assembly = self.round.assembly(worker);
            // What came counts as come, with the values that were sent; what did not counts as missing.
            for chunk in 0..2 {
                let came = |chunk| self.came[worker][BACK].contains(&chunk);
                let came = came(chunk) || (came(1 - chunk) && came(PARITY));
                assert_eq!(assembly.has(chunk), came);
                let values = &assembly.values()[shape().range(chunk)];
                let sent = sent();
                let expected = |i: usize| if came { sent[i] } else { 0.0 };
                assert!(
                    shape()
                        .range(chunk)
                        .map(expected)
                        .eq(values.iter().copied())
                );
            }
            if over && !assembly.complete() {
                assert!(self.now >= if needed { BOUND } else { PATIENCE });
            }
        }
    }

    /// The end if nothing is lost from now on, and every packet arrives before anybody waits.
    fn settle(mut self) -> Self {
        loop {
            while let Some(&(worker, way)) = self.busy().first() {
                self.deliver(worker, way);
            }
            if !self.wait() {
                return self;
            }
        }
    }
}

/// Explores all courses of a round. Gives how many states there are.
fn explore(needed: [bool; WORKERS], copies: u8, parity: bool) -> usize {
    let first = State::new(needed, copies, parity);
    let mut numbers = HashMap::from([(first.key(), 0)]);
    let mut open = vec![(0, first)];
    // Of each state, those that can follow.
    let mut follow = vec![Vec::new()];
    while let Some((number, state)) = open.pop() {
        state.check(needed);
        for next in state.next() {
            let known = numbers.len();
            let next_number = *numbers.entry(next.key()).or_insert(known);
            follow[number].push(next_number);
            if next_number == known {
                follow.push(Vec::new());
                open.push((known, next));
            }
        }
        let end = state.settle();
        end.check(needed);
        assert_eq!(end.round.suspects(end.now), [0_usize; 0]);
        for worker in (0..WORKERS).filter(|worker| needed[*worker]) {
            assert!(end.round.assembly(worker).complete(), "{end:?}");
        }
    }
    assert!(!has_cycle(&follow), "a course without an end");
    numbers.len()
}

/// Whether some state can follow on itself.
fn has_cycle(follow: &[Vec<usize>]) -> bool {
    let mut before = vec![0; follow.len()];
    follow.iter().flatten().for_each(|next| before[*next] += 1);
    let mut free: Vec<usize> = (0..follow.len()).filter(|s| before[*s] == 0).collect();
    let mut taken = 0;
    while let Some(state) = free.pop() {
        taken += 1;
        for &next in &follow[state] {
            before[next] -= 1;
            if before[next] == 0 {
                free.push(next);
            }
        }
    }
    taken < follow.len()
}

#[test]
fn a_strict_round_ends_with_everything_whatever_the_network_does() {
    assert!(explore([true, true], 1, false) > 10_000);
}

#[test]
fn a_relaxed_round_accounts_for_what_it_goes_without() {
    assert!(explore([true, false], 1, false) > 10_000);
}

#[test]
fn parity_changes_neither() {
    assert!(explore([true, false], 1, true) > 10_000);
}
