use halo_fabric::{FaultInjector, Faults, Loss};

use crate::EvalError;

/// The way to a worker and back, on which packets are lost.
#[derive(Debug)]
pub(super) struct Link {
    there: FaultInjector,
    back: FaultInjector,
}

impl Link {
    /// The link of a worker by its number, which loses other packets than those of other numbers.
    pub(super) fn new(loss: Loss, seed: u64, worker: u64) -> Result<Self, EvalError> {
        let injector = |way: u64| {
            let seed = seed.wrapping_mul(1 << 20).wrapping_add(2 * worker + way);
            FaultInjector::new(&Faults { loss, seed }).map_err(|e| EvalError::Option(e.to_string()))
        };
        Ok(Self {
            there: injector(0)?,
            back: injector(1)?,
        })
    }

    /// One round with a worker, as the protocol has it: an activation and a partial of so many chunks each, every packet of them
    /// sent `copies` times, with `parity` one more that makes up for any one that is lost. The worker answers once it has the whole
    /// activation. Where something is missing the leader asks again, so often at most: if nothing has come, by sending the
    /// activation again; else with one packet for the chunks that are missing. Tells `arrived` of each chunk of the partial once,
    /// and returns how often was asked.
    pub(super) fn round(
        &mut self,
        chunks: u16,
        copies: u8,
        parity: bool,
        asked_at_most: u32,
        mut arrived: impl FnMut(u16),
    ) -> u64 {
        let mut at_worker = vec![false; usize::from(chunks)];
        let mut at_leader = at_worker.clone();
        let mut asked = 0;
        loop {
            let nothing = !at_leader.contains(&true);
            let reached = if nothing {
                send(&mut self.there, &mut at_worker, copies, parity)
            } else {
                arrives(&mut self.there, 1)
            };
            if reached && !at_worker.contains(&false) {
                let lacking = at_leader.iter().filter(|there| !**there).count();
                let mut missing = vec![false; lacking];
                send(&mut self.back, &mut missing, copies, parity && nothing);
                let mut came = missing.into_iter();
                for (chunk, there) in at_leader
                    .iter_mut()
                    .enumerate()
                    .filter(|(_, there)| !**there)
                {
                    *there = came.next() == Some(true);
                    if *there {
                        arrived(chunk as u16);
                    }
                }
            }
            if !at_leader.contains(&false) || asked == asked_at_most {
                return u64::from(asked);
            }
            asked += 1;
        }
    }
}

/// Sends all of these chunks, of which some may be there already. Whether any packet arrives.
fn send(way: &mut FaultInjector, there: &mut [bool], copies: u8, parity: bool) -> bool {
    let mut reached = false;
    for chunk in there.iter_mut() {
        let came = arrives(way, copies);
        *chunk |= came;
        reached |= came;
    }
    if parity && arrives(way, copies) {
        reached = true;
        if there.iter().filter(|there| !**there).count() == 1 {
            there.fill(true);
        }
    }
    reached
}

/// Whether one of a packet's copies arrives.
fn arrives(way: &mut FaultInjector, copies: u8) -> bool {
    // Every copy is sent, whatever becomes of the others.
    (0..copies).fold(false, |came, _| !way.loses() || came)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of rounds whose partial was whole, and how often was asked on average.
    fn whole(rate: f64, chunks: u16, copies: u8, parity: bool, asked_at_most: u32) -> (f64, f64) {
        const ROUNDS: u32 = 40_000;
        let mut link = Link::new(Loss::Random { rate }, 1, 1).unwrap();
        let (mut whole, mut asked) = (0, 0);
        for _ in 0..ROUNDS {
            let mut came = vec![0; usize::from(chunks)];
            asked += link.round(chunks, copies, parity, asked_at_most, |chunk| {
                came[usize::from(chunk)] += 1
            });
            assert!(came.iter().all(|times| *times <= 1));
            whole += u32::from(came.iter().all(|times| *times == 1));
        }
        let per_round = |count: f64| count / f64::from(ROUNDS);
        (per_round(f64::from(whole)), per_round(asked as f64))
    }

    #[test]
    fn rounds_are_whole_as_often_as_chance_says() {
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 0.01, "{found} {expected}")
        };
        assert_eq!(whole(0.0, 2, 1, false, 5), (1.0, 0.0));
        // One packet each way, nothing asked again; then twice each.
        near(whole(0.1, 1, 1, false, 0).0, 0.9 * 0.9);
        near(whole(0.1, 1, 2, false, 0).0, 0.99 * 0.99);
        near(whole(0.1, 2, 1, false, 0).0, 0.9f64.powi(4));
        // At most one of three packets is lost, there and back.
        let two_and_parity: f64 = 0.729 + 3.0 * 0.081;
        near(whole(0.1, 2, 1, true, 0).0, two_and_parity.powi(2));
        // Asked once more: the first time both ways, or lost there and then both ways, or lost back and then both ways.
        near(whole(0.1, 1, 1, false, 1).0, 0.81 + 0.19 * 0.81);
        let (all, asked) = whole(0.2, 1, 1, false, 80);
        assert_eq!(all, 1.0);
        near(asked, 1.0 / 0.64 - 1.0);
    }
}
