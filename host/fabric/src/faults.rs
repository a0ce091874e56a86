//! Packet loss on purpose, for tests and demonstrations.
//!
//! With [`FabricConfig::faults`](crate::FabricConfig::faults) set, a node throws away some of the data plane's packets
//! that arrive, as if the network had lost them: tensors and heartbeats alike. Which ones depends on nothing but the
//! seed and the order of the packets. It needs no privileges, and nothing is lost on the control plane.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::FabricError;

/// Which packets a node loses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// The model of loss.
    pub loss: Loss,
    /// Where its random numbers begin. Nodes should have different ones, or they lose in step.
    #[serde(default)]
    pub seed: u64,
}

/// A model of packet loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "lowercase", deny_unknown_fields)]
pub enum Loss {
    /// Each packet is lost with the same chance, whatever became of those before it.
    Random {
        /// The chance, 0 to 1.
        rate: f64,
    },
    /// Losses come in bursts (Gilbert and Elliott's model: in its bad state everything is lost, in its good state
    /// nothing is).
    Bursty {
        /// The share of packets lost in the long run, 0 to 1.
        rate: f64,
        /// The mean number of packets lost in a row, at least 1. At least one packet arrives between two bursts, so the
        /// rate can be `burst / (burst + 1)` at most.
        burst: f64,
    },
}

impl Faults {
    /// Checks the numbers.
    ///
    /// # Errors
    ///
    /// If a rate or a burst length is not possible.
    pub fn check(&self) -> Result<(), FabricError> {
        let bad = |field, value, expected| {
            Err(FabricError::BadFaults {
                field,
                value,
                expected,
            })
        };
        let (Loss::Random { rate } | Loss::Bursty { rate, .. }) = self.loss;
        if !(0.0..=1.0).contains(&rate) {
            return bad("rate", rate, "a share of packets is 0 to 1");
        }
        if let Loss::Bursty { rate, burst } = self.loss {
            if !(burst >= 1.0 && burst.is_finite()) {
                return bad("burst", burst, "a mean burst is 1 packet or more");
            }
            if rate > burst / (burst + 1.0) {
                return bad(
                    "rate",
                    rate,
                    "with bursts of this mean length it can be burst / (burst + 1) at most",
                );
            }
        }
        Ok(())
    }
}

/// Decides packet by packet.
#[derive(Debug)]
pub struct FaultInjector {
    /// Chance that the next packet is lost, after one that arrived and after one that was lost.
    chances: [f64; 2],
    lost_last: bool,
    /// A generator whose numbers are the same on every machine and in every release.
    random: Xoshiro256PlusPlus,
}

impl FaultInjector {
    /// An injector at the beginning of its random numbers.
    ///
    /// # Errors
    ///
    /// See [`Faults::check`].
    pub fn new(faults: &Faults) -> Result<Self, FabricError> {
        faults.check()?;
        let chances = match faults.loss {
            Loss::Random { rate } => [rate, rate],
            // In balance as many bursts begin as end: (1 - rate) * begin = rate * end, and end = 1 / burst.
            Loss::Bursty { rate, burst } => [rate / ((1.0 - rate) * burst), 1.0 - burst.recip()],
        };
        Ok(Self {
            chances,
            lost_last: false,
            random: Xoshiro256PlusPlus::seed_from_u64(faults.seed),
        })
    }

    /// Whether the next packet is lost.
    pub fn loses(&mut self) -> bool {
        let chance = self.chances[usize::from(self.lost_last)];
        self.lost_last = self.random.random::<f64>() < chance;
        self.lost_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(loss: Loss, seed: u64, packets: usize) -> Vec<bool> {
        let mut injector = FaultInjector::new(&Faults { loss, seed }).unwrap();
        (0..packets).map(|_| injector.loses()).collect()
    }

    fn share(lost: &[bool]) -> f64 {
        lost.iter().filter(|&&l| l).count() as f64 / lost.len() as f64
    }

    #[test]
    fn the_seed_decides() {
        let loss = Loss::Random { rate: 0.3 };
        assert_eq!(run(loss, 7, 1000), run(loss, 7, 1000));
        assert_ne!(run(loss, 7, 1000), run(loss, 8, 1000));
    }

    #[test]
    fn rates_are_kept() {
        for rate in [0.0, 0.01, 0.1, 0.5, 1.0] {
            let lost = share(&run(Loss::Random { rate }, 1, 100_000));
            assert!((lost - rate).abs() < 0.006, "{lost} for {rate}");
        }
        for (rate, burst) in [(0.0, 3.0), (0.1, 1.0), (0.1, 6.0), (0.5, 2.0)] {
            let lost = run(Loss::Bursty { rate, burst }, 1, 400_000);
            assert!((share(&lost) - rate).abs() < 0.01, "{rate} {burst}");
            if rate > 0.0 {
                let bursts = lost.windows(2).filter(|w| !w[0] && w[1]).count();
                let mean = lost.iter().filter(|&&l| l).count() as f64 / bursts as f64;
                assert!((mean / burst - 1.0).abs() < 0.05, "{mean} for {burst}");
            }
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for loss in [
            Loss::Random { rate: -0.1 },
            Loss::Random { rate: 1.1 },
            Loss::Random { rate: f64::NAN },
            Loss::Bursty {
                rate: 0.1,
                burst: 0.5,
            },
            Loss::Bursty {
                rate: 0.1,
                burst: f64::INFINITY,
            },
            Loss::Bursty {
                rate: 0.9,
                burst: 2.0,
            },
        ] {
            assert!(FaultInjector::new(&Faults { loss, seed: 0 }).is_err());
        }
    }
}
