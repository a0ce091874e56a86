//! The state of one round: who owes a partial, what has come, when to ask again, when to go on.
//!
//! Nothing here sends, receives or reads a clock: times are durations since the round began, given by the caller. So every
//! course that a round can take is a unit test.

use std::time::Duration;

use halo_fabric::{Accepted, Assembly, Header, TensorShape};

/// When missing packets are asked for again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Repair {
    /// Never sooner than this.
    pub(crate) floor: Duration,
    /// Never later than this after the last time.
    pub(crate) ceiling: Duration,
    /// Each further wait is longer by this factor.
    pub(crate) backoff: f64,
}

impl Repair {
    /// At the scale of a round trip: the network is expected to lose packets, not to be congested by a few KB.
    pub(crate) const ADAPTIVE: Self = Self {
        floor: Duration::from_micros(400),
        ceiling: Duration::from_millis(50),
        backoff: 1.5,
    };

    /// What Linux's TCP does with a lone small segment: nothing for 200 ms, then twice as long each time.
    pub(crate) const LIKE_TCP: Self = Self {
        floor: Duration::from_millis(200),
        ceiling: Duration::from_secs(120),
        backoff: 2.0,
    };
}

/// One worker's debt in a round.
#[derive(Debug)]
pub(crate) struct Debt {
    assembly: Assembly,
    /// Waited for until the bound, not just until the patience ends.
    needed: bool,
    /// It will not answer: dead, or suspected of it.
    gone: bool,
    complete_at: Option<Duration>,
    asked: u32,
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
}

/// Where a round stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing to do before this time unless a packet comes.
    Waiting(Duration),
    /// Everything has come that is waited for, or the time for it is over.
    Over,
}

#[derive(Debug)]
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
            let wait = expected.max(repair.floor).min(repair.ceiling);
            Debt {
                assembly: Assembly::new(shape),
                needed,
                gone: false,
                complete_at: None,
                asked: 0,
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

    /// Takes a chunk of a debtor's partial.
    pub(crate) fn accept(
        &mut self,
        debtor: usize,
        header: &Header,
        body: &[u8],
        now: Duration,
    ) -> Accepted {
        let debt = &mut self.debts[debtor];
        let accepted = debt.assembly.accept(header, body);
        if debt.complete_at.is_none() && debt.assembly.complete() {
            debt.complete_at = Some(now);
        }
        accepted
    }

    /// The debtor will not answer. What has come of its partial still counts.
    pub(crate) fn gone(&mut self, debtor: usize) {
        self.debts[debtor].gone = true;
    }

    /// The debtor asked for the activation: it is alive and just beginning, so the next wait starts now.
    pub(crate) fn restarted(&mut self, debtor: usize, now: Duration) {
        let debt = &mut self.debts[debtor];
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
            debt.asked += 1;
            debt.wait = debt.wait.mul_f64(repair.backoff).min(repair.ceiling);
            debt.next_ask = now + debt.wait;
            (
                index,
                if debt.nothing() {
                    Ask::Everything
                } else {
                    Ask::Missing
                },
            )
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
    pub(crate) fn assembly(&self, debtor: usize) -> &Assembly {
        &self.debts[debtor].assembly
    }

    /// When the debtor's partial was complete, if that tells the time an answer takes: not if it was asked again, since the
    /// answer may be to either asking.
    pub(crate) fn sample(&self, debtor: usize) -> Option<Duration> {
        self.debts[debtor]
            .complete_at
            .filter(|_| self.debts[debtor].asked == 0)
    }

    /// How often the debtor was asked again.
    pub(crate) fn asked(&self, debtor: usize) -> u32 {
        self.debts[debtor].asked
    }

    /// All partials are complete.
    pub(crate) fn complete(&self) -> bool {
        self.debts.iter().all(|d| d.complete_at.is_some())
    }
}

impl Debt {
    /// Still waited for.
    fn open(&self) -> bool {
        self.complete_at.is_none() && !self.gone
    }

    /// Not a single chunk has come.
    fn nothing(&self) -> bool {
        self.assembly.missing_count() == self.assembly.shape().chunks()
    }
}
