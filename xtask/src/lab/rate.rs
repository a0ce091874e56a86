//! How fast a link is, each way.

use anyhow::{Result, ensure};

use super::condition::Condition;
use super::host::Host;
use super::tools;

/// How long a packet may wait for its turn; what would wait for longer is lost.
const LONGEST_WAIT: &str = "100ms";

/// Of the time in which nothing was sent, so many seconds' worth may be made up for at once: a timer is not more exact.
const SLACK: f64 = 0.0005;

/// The largest frame.
const FRAME_BYTES: f64 = 1514.0;

/// Bits a second that a host may send, and as many that it may receive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate(Option<f64>);

impl Rate {
    pub(super) const fn of(megabits: f64) -> Self {
        Self(Some(megabits * 1e6))
    }

    /// Mbit/s, if they can be; 0 for no bound.
    pub(super) fn new(megabits: f64) -> Result<Self> {
        ensure!(
            megabits == 0.0 || (0.01..=1e5).contains(&megabits),
            "{megabits} Mbit/s is no rate: it is 0.01 to 100000, or 0 for no bound"
        );
        Ok(if megabits > 0.0 {
            Self::of(megabits)
        } else {
            Self(None)
        })
    }
}

impl Condition for Rate {
    fn set(&self, host: &Host) -> Result<()> {
        let discipline = match self.0 {
            None => "noqueue".to_owned(),
            Some(bits) => {
                let burst = (bits / 8.0 * SLACK).max(2.0 * FRAME_BYTES);
                format!("tbf rate {bits:.0}bit burst {burst:.0}b latency {LONGEST_WAIT}")
            }
        };
        for (namespace, device) in [(&host.namespace, "eth0"), (&host.switch, &*host.port())] {
            let command = format!("-n {namespace} qdisc replace dev {device} root {discipline}");
            tools::run("tc", &command.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
