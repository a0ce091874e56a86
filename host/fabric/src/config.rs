//! A node's settings, and what they mean to zenoh.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::control::MAX_MESSAGE_BYTES;
use crate::error::words;
use crate::node_id::check_name;
use crate::{FabricError, Faults, NodeId};

/// How long a silent node counts as alive, in milliseconds. A dead one is noticed after that.
pub(crate) const LEASE_MS: u64 = 2_000;

/// The largest batch of zenoh's, on UDP the largest datagram.
const BATCH_BYTES: usize = 1_400;

/// How long a client tries to reach its router, in milliseconds. At 20 % loss each way, a handshake over UDP fails
/// six times in ten; this leaves room for several.
pub(crate) const CLIENT_CONNECT_MS: u64 = 15_000;

/// How a node takes part in zenoh's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Connects to all other nodes directly.
    #[default]
    Peer,
    /// Connects to a router (`zenohd`), which passes everything on.
    Client,
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
            faults: None,
        }
    }
}

/// Settings that zenoh can be opened with.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) zenoh: zenoh::Config,
    /// Where it will listen.
    pub(crate) listen: Vec<String>,
    /// Where it will connect, as it was given.
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
        let connect_groups = config
            .connect
            .iter()
            .map(|endpoint| expand(endpoint))
            .collect::<Result<Vec<_>, _>>()?;
        // A client connects to one entry only, so the two links to one router have to be one entry.
        let connect: Vec<_> = connect_groups
            .iter()
            .map(|links| json!({ "strategy": "allOf", "locators": links }))
            .collect();

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
            (
                "connect/retry",
                json!({ "period_init_ms": 500, "period_max_ms": 2_000, "period_increase_factor": 2 }),
            ),
            ("scouting/multicast/enabled", json!(config.scouting)),
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
            // A reliable link and an unreliable one to each node.
            ("transport/unicast/max_links", json!(2)),
            ("transport/unicast/open_timeout", json!(2_000)),
            ("transport/unicast/accept_timeout", json!(2_000)),
            ("transport/link/tx/lease", json!(LEASE_MS)),
            ("transport/link/tx/keep_alive", json!(4)),
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
        for (key, value) in settings {
            zenoh
                .insert_json5(key, &value.to_string())
                .map_err(|reason| FabricError::zenoh(format!("set {key} to {value}"), &reason))?;
        }
        Ok(Self {
            zenoh,
            listen,
            connect: config.connect.clone(),
        })
    }
}

/// The zenoh endpoints to listen on, each of them free a moment ago.
fn listen_endpoints(config: &FabricConfig) -> Result<Vec<String>, FabricError> {
    if config.listen.is_empty() && config.mode == Mode::Peer {
        // Without IPv6 there is no wildcard that covers both families.
        let host = if UdpSocket::bind("[::]:0").is_ok() {
            "[::]"
        } else {
            "0.0.0.0"
        };
        return reserve(host, 0);
    }
    let mut endpoints = Vec::new();
    for endpoint in &config.listen {
        if endpoint.contains('/') {
            endpoints.extend(expand(endpoint)?);
        } else {
            let (host, port) = split(endpoint)?;
            endpoints.extend(reserve(host, port)?);
        }
    }
    Ok(endpoints)
}

/// How often to look for a port that is free on TCP and UDP both.
const RESERVE_TRIES: usize = 32;

/// The TCP and UDP endpoints of a port that is free on both; any such port for port 0.
fn reserve(host: &str, port: u16) -> Result<Vec<String>, FabricError> {
    let resolve = |port: u16| -> Result<SocketAddr, FabricError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        (bare, port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(|| bad(&format!("{host}:{port}"), "the host is not known"))
    };
    let mut tries = 0;
    loop {
        let tcp = TcpListener::bind(resolve(port)?)
            .map_err(|error| listen_error("tcp", host, port, &error))?;
        let taken = tcp
            .local_addr()
            .map_err(|error| listen_error("tcp", host, port, &error))?
            .port();
        match UdpSocket::bind(resolve(taken)?) {
            Ok(_) => return Ok(both(host, taken)),
            Err(error) if port != 0 || tries == RESERVE_TRIES => {
                return Err(listen_error("udp", host, taken, &error));
            }
            Err(_) => tries += 1,
        }
    }
}

/// Says why an address cannot be listened on.
fn listen_error(protocol: &str, host: &str, port: u16, error: &std::io::Error) -> FabricError {
    let endpoint = format!("{protocol}/{host}:{port}");
    match error.kind() {
        std::io::ErrorKind::AddrInUse => FabricError::PortInUse { endpoint },
        std::io::ErrorKind::AddrNotAvailable => FabricError::NoSuchAddress { endpoint },
        _ => FabricError::Zenoh {
            action: format!("listen on {endpoint}"),
            reason: error.to_string(),
        },
    }
}

/// The zenoh endpoints that a user's endpoint stands for.
fn expand(endpoint: &str) -> Result<Vec<String>, FabricError> {
    if endpoint.contains('/') {
        return match endpoint.parse::<zenoh::config::EndPoint>() {
            Ok(parsed) if ["tcp", "udp"].contains(&parsed.protocol().as_str()) => {
                Ok(vec![endpoint.to_owned()])
            }
            Ok(_) => Err(bad(endpoint, "only tcp and udp are spoken")),
            Err(reason) => Err(bad(endpoint, &words(&reason))),
        };
    }
    let (host, port) = split(endpoint)?;
    if port == 0 {
        return Err(bad(endpoint, "nothing can be reached on port 0"));
    }
    Ok(both(host, port))
}

/// The reliable and the unreliable endpoint of a host and port.
fn both(host: &str, port: u16) -> Vec<String> {
    vec![
        format!("tcp/{host}:{port}?rel=1"),
        format!("udp/{host}:{port}?rel=0"),
    ]
}

/// Splits `HOST:PORT`.
fn split(endpoint: &str) -> Result<(&str, u16), FabricError> {
    let (host, port) = endpoint
        .rsplit_once(':')
        .ok_or_else(|| bad(endpoint, "the port is missing"))?;
    let port = port
        .parse()
        .map_err(|_| bad(endpoint, "the port is not a number from 0 to 65535"))?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() {
        return Err(bad(endpoint, "the host is missing"));
    }
    if host.contains(':') && !bracketed {
        return Err(bad(endpoint, "an IPv6 address needs brackets round it"));
    }
    // These mean something in zenoh's endpoints.
    if host.contains(['?', '#', ';', ' ']) {
        return Err(bad(endpoint, "the host is not a name or an address"));
    }
    Ok((host, port))
}

fn bad(endpoint: &str, reason: &str) -> FabricError {
    FabricError::BadEndpoint {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_become_two_links() {
        assert_eq!(
            expand("pi-4:7447").unwrap(),
            ["tcp/pi-4:7447?rel=1", "udp/pi-4:7447?rel=0"]
        );
        assert_eq!(
            expand("[fe80::1]:7447").unwrap(),
            ["tcp/[fe80::1]:7447?rel=1", "udp/[fe80::1]:7447?rel=0"]
        );
        assert_eq!(expand("tcp/pi-4:7447").unwrap(), ["tcp/pi-4:7447"]);
    }

    #[test]
    fn bad_endpoints_are_refused() {
        for endpoint in [
            "",
            "pi",
            ":7447",
            "pi:",
            "pi:x",
            "pi:70000",
            "fe80::1:7447",
            "pi:0",
            "a?b:1",
            "/",
            "tls/pi-4:7447",
        ] {
            let error = expand(endpoint).unwrap_err();
            assert!(
                matches!(error, FabricError::BadEndpoint { .. }),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn a_free_port_is_the_same_on_both() {
        let endpoints = reserve("127.0.0.1", 0).unwrap();
        let port = |e: &str| split(e.split(['/', '?']).nth(1).unwrap()).unwrap().1;
        assert_eq!(endpoints.len(), 2);
        assert_eq!(port(&endpoints[0]), port(&endpoints[1]));
        assert_ne!(port(&endpoints[0]), 0);
    }

    #[test]
    fn zenoh_takes_the_settings() {
        let mut config = FabricConfig::new("a".parse().unwrap());
        config.connect = vec!["pi-4:7447".to_owned()];
        for mode in [Mode::Peer, Mode::Client] {
            config.mode = mode;
            let prepared = Prepared::new(&config).unwrap();
            let get = |key: &str| prepared.zenoh.get_json(key).unwrap();
            assert_eq!(get("transport/unicast/max_links"), "2");
            assert_eq!(get("transport/link/tx/batch_size"), "1400");
            assert!(get("connect/endpoints").contains("udp/pi-4:7447?rel=0"));
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
            r#"{"node": "a", "mode": "router"}"#,
            r#"{"node": "a", "faults": {"loss": {"model": "random"}}}"#,
        ] {
            assert!(serde_json::from_str::<FabricConfig>(bad).is_err(), "{bad}");
        }
    }
}
