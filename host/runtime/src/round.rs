//! The state of one round: who owes a partial, what has come, when to ask again, when to go on.
//!
//! Nothing here sends, receives or reads a clock: times are durations since the round began, given by the caller. So every
//! course that a round can take is a unit test.

use std::time::Duration;

use halo_fabric::{Accepted, Assembly, Header, TensorShape};

use crate::sending::Sending;

/// When missing packets are asked for again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Repair {
    /// Never sooner than this.
    pub(crate) floor: Duration,
    /// Never later than this after the last time.
    pub(crate) ceiling: Duration,
    /// Each further wait is longer by this factor.
    pub(crate) backoff: f64,
    /// What is known to be lost is asked for at once.
    pub(crate) prompt: bool,
}

impl Repair {
    /// At the scale of a round trip: the network is expected to lose packets, not to be congested by a few KB.
    pub(crate) const ADAPTIVE: Self = Self {
        floor: Duration::from_micros(400),
        ceiling: Duration::from_millis(10),
        backoff: 1.5,
        prompt: true,
    };

    /// What Linux's TCP does with a lone small segment: nothing for 200 ms, then twice as long each time.
    pub(crate) const LIKE_TCP: Self = Self {
        floor: Duration::from_millis(200),
        ceiling: Duration::from_secs(120),
        backoff: 2.0,
        prompt: false,
    };

    /// Nothing that is sent over TCP is lost, and asking again would only join the queue.
    pub(crate) const NEVER: Self = Self {
        floor: Duration::from_hours(1),
        ceiling: Duration::from_hours(1),
        backoff: 1.0,
        prompt: false,
    };
}

/// One worker's debt in a round.
#[derive(Debug, Clone)]
struct Debt {
    assembly: Assembly,
    /// Waited for until the bound, not just until the patience ends.
    needed: bool,
    /// It will not answer: dead, or suspected of it.
    gone: bool,
    complete: bool,
    /// When it was asked again, each time.
    asked: Vec<Duration>,
    /// Something was lost on the way and asked for by itself, so nothing says how long the whole took.
    mended: bool,
    /// How long the answer took, from the asking that it answers.
    took: Option<Duration>,
    wait: Duration,
    next_ask: Duration,
}

/// What to do about a worker whose answer is late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Nothing has come: the activation may be what was lost.
    Everything,
    /// Some chunks have come: the others are wanted.
    Missing,
    /// All that were sent have come: the next are wanted.
    Next,
}

/// Where a round stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing to do before this time unless a packet comes.
    Waiting(Duration),
    /// Everything has come that is waited for, or the time for it is over.
    Over,
}

#[derive(Debug, Clone)]
pub(crate) struct Round {
    debts: Vec<Debt>,
    repair: Repair,
    /// How long those that are not needed are waited for.
    patience: Duration,
    /// How long anybody is waited for.
    bound: Duration,
}

impl Round {
    /// A round in which each of `debtors` (needed or not, expected arrival) owes a partial of `shape`.
    pub(crate) fn new(
        shape: TensorShape,
        debtors: impl IntoIterator<Item = (bool, Duration)>,
        repair: Repair,
        patience: Duration,
        bound: Duration,
    ) -> Self {
        let debt = |(needed, expected): (bool, Duration)| {
            let wait = expected
                .max(repair.floor)
                .min(repair.ceiling.max(repair.floor));
            Debt {
                assembly: Assembly::new(shape),
                needed,
                gone: false,
                complete: false,
                asked: Vec::new(),
                mended: false,
                took: None,
                wait,
                next_ask: wait,
            }
        };
        Self {
            debts: debtors.into_iter().map(debt).collect(),
            repair,
            patience: patience.min(bound),
            bound,
        }
    }

    /// Takes a chunk of a debtor's partial. Its flags say which asking it answers: 0 is the first sending.
    pub(crate) fn accept(
        &mut self,
        debtor: usize,
        header: &Header,
        body: &[u8],
        now: Duration,
    ) -> Accepted {
        let debt = &mut self.debts[debtor];
        let accepted = debt.assembly.accept(header, body);
        if !debt.complete && debt.assembly.complete() {
            debt.complete = true;
            let since = match Sending::of_flags(header.flags).number {
                0 => Some(Duration::ZERO),
                Sending::LAST => None,
                answered => debt.asked.get(usize::from(answered) - 1).copied(),
            };
            debt.took = since
                .filter(|_| !debt.mended)
                .map(|since| now.saturating_sub(since));
        }
        accepted
    }

    /// What to ask a debtor that has nothing more under way after this packet, though some are missing. Counts it as asked.
    pub(crate) fn stalled(&mut self, debtor: usize, header: &Header, now: Duration) -> Option<Ask> {
        let debt = &mut self.debts[debtor];
        if !debt.open() || !debt.assembly.is_last(header) {
            return None;
        }
        let lost = debt.assembly.missing().next() < Some(header.chunk);
        if lost && !self.repair.prompt {
            return None;
        }
        debt.mended |= lost;
        debt.asked.push(now);
        debt.next_ask = now + debt.wait;
        Some(if lost { Ask::Missing } else { Ask::Next })
    }

    /// The debtor will not answer. What has come of its partial still counts.
    pub(crate) fn gone(&mut self, debtor: usize) {
        self.debts[debtor].gone = true;
    }

    /// The debtor asked for what it lost of the activation: it is alive and just beginning, so the next wait starts now.
    pub(crate) fn restarted(&mut self, debtor: usize, now: Duration) {
        let debt = &mut self.debts[debtor];
        debt.mended = true;
        debt.next_ask = debt.next_ask.max(now + debt.wait);
    }

    /// Which debtors to ask again now. Counts them as asked.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<(usize, Ask)> {
        let repair = self.repair;
        let due = self
            .debts
            .iter_mut()
            .enumerate()
            .filter(|(_, d)| d.open() && now >= d.next_ask);
        due.map(|(index, debt)| {
            debt.asked.push(now);
            debt.wait = debt.wait.mul_f64(repair.backoff).min(repair.ceiling);
            debt.next_ask = now + debt.wait;
            let ask = if debt.nothing() {
                Ask::Everything
            } else {
                Ask::Missing
            };
            debt.mended |= ask == Ask::Missing;
            (index, ask)
        })
        .collect()
    }

    /// Where the round stands.
    pub(crate) fn standing(&self, now: Duration) -> Standing {
        let open = || self.debts.iter().filter(|d| d.open());
        let deadline = if open().any(|d| d.needed) {
            self.bound
        } else {
            self.patience
        };
        match open().map(|d| d.next_ask).min() {
            Some(ask) if now < deadline => Standing::Waiting(ask.min(deadline)),
            _ => Standing::Over,
        }
    }

    /// Debtors that were waited for until the bound in vain.
    pub(crate) fn suspects(&self, now: Duration) -> Vec<usize> {
        if now < self.bound {
            return Vec::new();
        }
        self.debts
            .iter()
            .enumerate()
            .filter(|(_, d)| d.open() && d.needed)
            .map(|(i, _)| i)
            .collect()
    }

    /// A debtor's assembly.
    #[cfg(test)]
    fn assembly(&self, debtor: usize) -> &Assembly {
        &self.debts[debtor].assembly
    }

    /// A debtor's assembly, to ask for what is missing or to conceal it.
    pub(crate) fn assembly_mut(&mut self, debtor: usize) -> &mut Assembly {
        &mut self.debts[debtor].assembly
    }

    /// Debtors of whose partial not a single chunk has come.
    pub(crate) fn silent(&self) -> impl Iterator<Item = usize> {
        let debts = self.debts.iter().enumerate();
        debts.filter(|(_, d)| d.nothing()).map(|(index, _)| index)
    }

    /// How long the debtor's answer took from the asking that it answers, if that is known. Answers that came late enough to
    /// be asked for again count as well: leaving them out would teach to expect answers ever sooner.
    pub(crate) fn took(&self, debtor: usize) -> Option<Duration> {
        self.debts[debtor].took
    }

    /// How often the debtor was asked again. Also the number that the next sending of the activation carries.
    pub(crate) fn asked(&self, debtor: usize) -> usize {
        self.debts[debtor].asked.len()
    }

    /// All partials are complete.
    pub(crate) fn complete(&self) -> bool {
        self.debts.iter().all(|d| d.complete)
    }
}

impl Debt {
    /// Still waited for.
    fn open(&self) -> bool {
        !self.complete && !self.gone
    }

    /// Not a single chunk has come.
    fn nothing(&self) -> bool {
        self.assembly.missing_count() == self.assembly.shape().chunks()
    }
}

#[cfg(test)]
mod model_check;
#[cfg(test)]
mod tests;
