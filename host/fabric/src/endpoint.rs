//! Where to listen and where to connect: `HOST:PORT`, for TCP and UDP both, or zenoh's notation.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};

use crate::error::words;
use crate::{FabricConfig, FabricError, Mode};

/// The zenoh endpoints to listen on, each of them free a moment ago.
pub(crate) fn listen_endpoints(config: &FabricConfig) -> Result<Vec<String>, FabricError> {
    if config.listen.is_empty() && config.mode != Mode::Client {
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
pub(crate) fn expand(endpoint: &str) -> Result<Vec<String>, FabricError> {
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

/// Whether an endpoint in zenoh's notation is of the control plane.
pub(crate) fn is_reliable(endpoint: &str) -> bool {
    endpoint.starts_with("tcp/")
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
    fn host_and_port_become_two_endpoints() {
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
}
