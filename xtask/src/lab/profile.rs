//! Kinds of networks.

use clap::ValueEnum;

use super::condition::Condition;
use super::delay::Delay;
use super::loss::Loss;
use super::rate::Rate;

/// A kind of network; `docs/guides/lab.md` says why its numbers are what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Gigabit Ethernet: 1000 Mbit/s, nothing lost
    Wired,
    /// 5 GHz in one room: 100 Mbit/s, 1 to 2 ms, 0.1 % lost
    GoodWifi,
    /// 2.4 GHz among neighbours: 25 Mbit/s, 3 to 9 ms, 1 % lost in bursts of 6
    BusyWifi,
    /// At the edge of its range: 8 Mbit/s, 5 to 25 ms, 5 % lost in bursts of 6
    BadWifi,
    /// A weak mobile network: 8 Mbit/s, 45 to 55 ms, 2 % lost in bursts of 8
    #[value(name = "4g")]
    Mobile4g,
}

impl Profile {
    pub(super) fn conditions(self) -> [Box<dyn Condition>; 3] {
        let (megabits, delay, loss) = match self {
            Self::Wired => (1000.0, Delay::NONE, Loss::None),
            Self::GoodWifi => (100.0, Delay::millis(1, 1), Loss::Random { share: 0.001 }),
            Self::BusyWifi => (
                25.0,
                Delay::millis(3, 6),
                Loss::Bursty {
                    share: 0.01,
                    length: 6.0,
                },
            ),
            Self::BadWifi => (
                8.0,
                Delay::millis(5, 20),
                Loss::Bursty {
                    share: 0.05,
                    length: 6.0,
                },
            ),
            Self::Mobile4g => (
                8.0,
                Delay::millis(45, 10),
                Loss::Bursty {
                    share: 0.02,
                    length: 8.0,
                },
            ),
        };
        [
            Box::new(Rate::of(megabits)),
            Box::new(delay),
            Box::new(loss),
        ]
    }
}
