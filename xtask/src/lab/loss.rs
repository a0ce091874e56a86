//! Packets that do not arrive: by nftables on the receiving side, as on a radio link, where the sender is not told.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::condition::Condition;
use super::host::Host;
use super::tools;

/// Of how many packets the rules count the share that is lost.
const WHOLE: f64 = 1e6;

/// Which of the packets that arrive at a host are lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Loss {
    None,
    /// Each with the same chance.
    Random {
        share: f64,
    },
    /// In bursts of so many on average, as `[testing] loss` of a node's configuration has it: after a packet that was lost the
    /// next is lost with another chance than after one that arrived.
    Bursty {
        share: f64,
        length: f64,
    },
}

/// What came to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Packets, with those that were lost.
    pub(super) arrived: u64,
    pub(super) lost: u64,
}

impl Loss {
    /// The same chance for each.
    pub(super) fn random(share: f64) -> Self {
        if share > 0.0 {
            Self::Random { share }
        } else {
            Self::None
        }
    }

    /// Bursts, if they can be.
    pub(super) fn bursty(share: f64, length: f64) -> Result<Self> {
        ensure!(
            length >= 1.0 && length.is_finite(),
            "{length} is no mean length of a burst: it is 1 packet or more"
        );
        ensure!(
            share <= length / (length + 1.0),
            "bursts of {length} packets on average lose {:.3} of all packets at most, for one arrives between two bursts",
            length / (length + 1.0)
        );
        Ok(if share > 0.0 {
            Self::Bursty { share, length }
        } else {
            Self::None
        })
    }

    /// For `nft -f`. What the set holds is that the last packet was lost.
    fn rules(self) -> String {
        let chance =
            |share: f64| format!("numgen random mod {WHOLE} < {}", (share * WHOLE).round());
        let lose = r#"counter name "lost" drop"#;
        let (first, then) = match self {
            Self::None => (String::new(), String::new()),
            Self::Random { share } => (format!("{} {lose}", chance(share)), String::new()),
            Self::Bursty { share, length } => {
                // In balance as many bursts begin as end.
                let (begin, end) = (share / ((1.0 - share) * length), length.recip());
                (
                    format!(
                        "iif @losing goto burst\n{} add @losing {{ iif }} {lose}",
                        chance(begin)
                    ),
                    format!("{} delete @losing {{ iif }} accept\n{lose}", chance(end)),
                )
            }
        };
        // Declared first, so that there is something to delete. All of it happens at once.
        format!(
            r#"table inet lab
            delete table inet lab
            table inet lab {{
                counter arrived {{}}
                counter lost {{}}
                set losing {{ type iface_index; flags dynamic; size 65535; }}
                chain burst {{
                    {then}
                }}
                chain arriving {{
                    type filter hook prerouting priority raw; policy accept;
                    iifname "eth0" counter name "arrived" goto link
                }}
                chain link {{
                    {first}
                }}
            }}
            "#
        )
    }
}

impl Condition for Loss {
    fn set(&self, host: &Host) -> Result<()> {
        tools::run_in(&host.namespace, "nft", &["-f", "-"], &self.rules()).map(drop)
    }
}

/// What has come to a host since its loss was set.
pub(super) fn counts(host: &Host) -> Result<Counts> {
    let list = ["-j", "list", "counters", "table", "inet", "lab"];
    let json = tools::run_in(&host.namespace, "nft", &list, "")?;
    let json: Value = serde_json::from_str(&json).context("cannot read the counters of nft")?;
    let packets = |name: &str| {
        let objects = json["nftables"].as_array()?.iter();
        let mut counters = objects.map(|object| &object["counter"]);
        counters.find(|counter| counter["name"] == name)?["packets"].as_u64()
    };
    let packets = |name| packets(name).with_context(|| format!("nft has no counter `{name}`"));
    Ok(Counts {
        arrived: packets("arrived")?,
        lost: packets("lost")?,
    })
}

/// Reads a share of packets.
pub(super) fn share(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to less than 1, such as 0.05"),
    }
}

/// Reads a share that may be all.
pub(super) fn share_or_all(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("a share is a number above 0 and up to 1, such as 0.5"),
    }
}
