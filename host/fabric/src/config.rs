//! A node's settings, and what they mean to zenoh.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::control::MAX_MESSAGE_BYTES;
use crate::endpoint::{expand, is_reliable, listen_endpoints};
use crate::node_id::check_name;
use crate::{FabricError, Faults, NodeId};

/// How long zenoh keeps a link over which nothing comes, in milliseconds. Dead nodes are noticed before that, by other signs; a
/// node that is only too busy to say anything should not have to connect again.
pub(crate) const LEASE_MS: u64 = 5_000;

/// The same where tensors go over TCP, which may repeat a packet for longer than that before one gets through, in milliseconds.
const PATIENT_LEASE_MS: u64 = 120_000;

/// The largest batch of zenoh's, on UDP the largest datagram.
const BATCH_BYTES: usize = 1_400;

/// How long one attempt at a link may take, in milliseconds. Nothing lost over UDP is sent again before the next attempt.
const OPEN_MS: u64 = 1_000;

/// How long a client tries to reach its router, in milliseconds. At 20 % loss each way, a handshake over UDP fails
/// six times in ten; this leaves room for several.
pub(crate) const CLIENT_CONNECT_MS: u64 = 15_000;

/// Where sessions look for their like by multicast: zenoh's own group, and the port before, so that the one for tensors meets none
/// of the others.
const CONTROL_SCOUTING: &str = "224.0.0.224:7446";
const DATA_SCOUTING: &str = "224.0.0.224:7445";

/// How a node takes part in zenoh's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Connects to all other nodes directly.
    #[default]
    Peer,
    /// Connects to a router, which passes everything on.
    Client,
    /// Connects to other routers, and passes on what clients and peers send one another, as `zenohd` does.
    Router,
}

/// What tensors travel over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The unreliable link: what is lost holds up nothing else.
    #[default]
    Udp,
    /// The reliable link, for comparison: after a lost packet everything waits until TCP has sent it again.
    Tcp,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// A node's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FabricConfig {
    /// Name of the cluster: 1 to 63 of `a-z`, `0-9` and `-`. Clusters on one network do not see one another.
    #[serde(default = "default_cluster")]
    pub cluster: String,
    /// Name of this node, unique within the cluster.
    pub node: NodeId,
    /// Whether nodes connect directly or by a router.
    #[serde(default)]
    pub mode: Mode,
    /// Where to listen: `HOST:PORT`, on TCP and UDP both, or a zenoh endpoint as it is (with a `/` in it). With port 0 a
    /// free one is taken. A peer without any listens on a free port of all interfaces.
    #[serde(default)]
    pub listen: Vec<String>,
    /// Where to connect, in the same notation. What cannot be reached is tried for again and again.
    #[serde(default)]
    pub connect: Vec<String>,
    /// Whether to look for other nodes by multicast.
    #[serde(default = "default_scouting")]
    pub scouting: bool,
    /// What this node sends tensors over.
    #[serde(default)]
    pub tensors: Transport,
    /// Packet loss on purpose, for tests and demonstrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faults>,
}

fn default_cluster() -> String {
    "halo".to_owned()
}

const fn default_scouting() -> bool {
    true
}

impl FabricConfig {
    /// The default settings of a node of this name.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            cluster: default_cluster(),
            node,
            mode: Mode::default(),
            listen: Vec::new(),
            connect: Vec::new(),
            scouting: default_scouting(),
            tensors: Transport::default(),
            faults: None,
        }
    }
}

/// The settings of a node's two zenoh sessions.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) control: Wire,
    pub(crate) data: Wire,
    /// Where it will connect, as it was given.
    pub(crate) connect: Vec<String>,
    pub(crate) mode: Mode,
}

/// The settings of one session.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) zenoh: zenoh::Config,
    /// Where it will listen, and where it will connect, in zenoh's notation.
    pub(crate) listen: Vec<String>,
    pub(crate) connect: Vec<String>,
}

impl Prepared {
    /// Checks the settings and the addresses they listen on.
    pub(crate) fn new(config: &FabricConfig) -> Result<Self, FabricError> {
        check_name(&config.cluster)?;
        if config.mode == Mode::Client && config.connect.is_empty() && !config.scouting {
            return Err(FabricError::NowhereToConnect);
        }
        let listen = listen_endpoints(config)?;
        let connect: Vec<Vec<String>> = config
            .connect
            .iter()
            .map(|endpoint| expand(endpoint))
            .collect::<Result<_, _>>()?;
        let connect = connect.concat();
        let (reliable, unreliable): (Vec<_>, Vec<_>) =
            connect.into_iter().partition(|e| is_reliable(e));
        let (listen_reliable, listen_unreliable) = listen.into_iter().partition(|e| is_reliable(e));
        let lease = match config.tensors {
            Transport::Udp => LEASE_MS,
            Transport::Tcp => PATIENT_LEASE_MS,
        };
        Ok(Self {
            control: Wire::new(config, lease, listen_reliable, reliable, CONTROL_SCOUTING)?,
            data: Wire::new(
                config,
                LEASE_MS,
                listen_unreliable,
                unreliable,
                DATA_SCOUTING,
            )?,
            connect: config.connect.clone(),
            mode: config.mode,
        })
    }
}

impl Wire {
    fn new(
        config: &FabricConfig,
        lease: u64,
        listen: Vec<String>,
        connect: Vec<String>,
        scouting: &str,
    ) -> Result<Self, FabricError> {
        let mut zenoh = zenoh::Config::default();
        let settings = [
            ("mode", json!(config.mode)),
            ("listen/endpoints", json!(listen)),
            ("listen/exit_on_failure", json!(true)),
            ("connect/endpoints", json!(connect)),
            (
                "connect/timeout_ms",
                json!({ "router": -1, "peer": -1, "client": CLIENT_CONNECT_MS }),
            ),
            (
                "connect/exit_on_failure",
                json!({ "router": false, "peer": false, "client": true }),
            ),
            // A handshake of which a datagram was lost is begun anew soon.
            (
                "connect/retry",
                json!({ "period_init_ms": 100, "period_max_ms": 1_000, "period_increase_factor": 2 }),
            ),
            ("scouting/multicast/enabled", json!(config.scouting)),
            ("scouting/multicast/address", json!(scouting)),
            // Without scouting there is nothing to wait for: nodes that can be reached are connected to already.
            (
                "open/return_conditions/connect_scouted",
                json!(config.scouting),
            ),
            // Whoever finds a node connects to it. A newcomer asks at once; those that are there ask only every eight seconds,
            // and to leave it to them would keep it waiting for so long.
            (
                "scouting/multicast/autoconnect_strategy",
                json!({ "peer": { "to_router": "always", "to_peer": "always" } }),
            ),
            // By gossip two nodes hear of each other at the same time, so one of them is enough.
            (
                "scouting/gossip/autoconnect_strategy",
                json!({ "peer": { "to_router": "always", "to_peer": "greater-zid" } }),
            ),
            ("transport/unicast/open_timeout", json!(OPEN_MS)),
            ("transport/unicast/accept_timeout", json!(OPEN_MS)),
            ("transport/link/tx/lease", json!(lease)),
            // Twice a second.
            ("transport/link/tx/keep_alive", json!(lease / 500)),
            (
                "transport/link/tx/queue/congestion_control/block/wait_before_close",
                json!(lease * 1_000),
            ),
            ("transport/link/tx/batch_size", json!(BATCH_BYTES)),
            // Room for the packets of a round; at the default of 2 a burst loses some before it reaches the network.
            ("transport/link/tx/queue/size/real_time", json!(16)),
            (
                "transport/link/tx/queue/congestion_control/drop/wait_before_drop",
                json!(500),
            ),
            (
                "transport/link/rx/max_message_size",
                json!(MAX_MESSAGE_BYTES + 64 * 1024),
            ),
            ("transport/shared_memory/enabled", json!(false)),
        ];
        set(&mut zenoh, settings)?;
        Ok(Self {
            zenoh,
            listen,
            connect,
        })
    }

    /// The same with other settings besides.
    pub(crate) fn with(
        &self,
        settings: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<zenoh::Config, FabricError> {
        let mut zenoh = self.zenoh.clone();
        set(&mut zenoh, settings)?;
        Ok(zenoh)
    }
}

fn set(
    zenoh: &mut zenoh::Config,
    settings: impl IntoIterator<Item = (&'static str, Value)>,
) -> Result<(), FabricError> {
    for (key, value) in settings {
        zenoh
            .insert_json5(key, &value.to_string())
            .map_err(|reason| FabricError::zenoh(format!("set {key} to {value}"), &reason))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zenoh_takes_the_settings() {
        let mut config = FabricConfig::new("a".parse().unwrap());
        config.connect = vec!["pi-4:7447".to_owned()];
        for mode in [Mode::Peer, Mode::Client, Mode::Router] {
            config.mode = mode;
            let prepared = Prepared::new(&config).unwrap();
            for (wire, endpoint) in [
                (&prepared.control, "tcp/pi-4:7447?rel=1"),
                (&prepared.data, "udp/pi-4:7447?rel=0"),
            ] {
                let get = |key: &str| wire.zenoh.get_json(key).unwrap();
                assert_eq!(get("transport/link/tx/batch_size"), "1400");
                assert_eq!(get("connect/endpoints"), format!("[\"{endpoint}\"]"));
            }
        }
    }

    #[test]
    fn settings_are_read_strictly() {
        let config: FabricConfig = serde_json::from_str(r#"{"node": "a"}"#).unwrap();
        assert_eq!(config, FabricConfig::new("a".parse().unwrap()));
        let faults = r#"{"node": "a", "faults": {"loss": {"model": "bursty", "rate": 0.1, "burst": 3.0}, "seed": 4}}"#;
        assert!(
            serde_json::from_str::<FabricConfig>(faults)
                .unwrap()
                .faults
                .is_some()
        );
        for bad in [
            r"{}",
            r#"{"node": "A"}"#,
            r#"{"node": "a", "lissten": []}"#,
            r#"{"node": "a", "mode": "broker"}"#,
            r#"{"node": "a", "faults": {"loss": {"model": "random"}}}"#,
        ] {
            assert!(serde_json::from_str::<FabricConfig>(bad).is_err(), "{bad}");
        }
    }
}
