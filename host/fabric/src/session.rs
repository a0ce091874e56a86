//! Opening a zenoh session, and what can stand in the way.

use std::time::Duration;

use tokio::time::Instant;

use crate::FabricError;
use crate::config::{CLIENT_CONNECT_MS, Prepared};
use crate::error::words;

/// How long a session that was given up may keep its ports.
const CLOSING: Duration = Duration::from_secs(3);

/// Between two looks whether they are free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Opens a session, with links to all nodes that can be reached.
pub(crate) async fn open(prepared: &Prepared) -> Result<zenoh::Session, FabricError> {
    let mut patient_until = Instant::now();
    if let Some(ordered) = prepared.in_order().await? {
        match zenoh::open(ordered).await {
            Ok(session) => return Ok(session),
            // Somebody listens, but does not speak zenoh, or not over UDP. What else is wrong will be told below.
            Err(reason) => tracing::warn!(
                "not connected to all of {}: {}; going on without",
                prepared.connect.join(", "),
                words(&reason)
            ),
        }
        patient_until = Instant::now() + CLOSING;
    }
    loop {
        match zenoh::open(prepared.zenoh.clone()).await {
            // zenoh closes the session that could not connect to all in its own time.
            Err(reason) if in_use(&words(&reason)) && Instant::now() < patient_until => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => return opened.map_err(|reason| failed(prepared, words(&reason))),
        }
    }
}

/// Whether a session could not be opened for want of its ports. zenoh has no error types.
fn in_use(reason: &str) -> bool {
    reason.contains("in use")
}

/// Why a session could not be opened.
fn failed(prepared: &Prepared, reason: String) -> FabricError {
    // That a port is free has been checked, but it may have been taken since.
    if in_use(&reason) {
        FabricError::PortInUse {
            endpoint: prepared.listen.join(" or "),
        }
    } else if reason.contains("Unable to connect") || reason.contains("timeout") {
        FabricError::CannotConnect {
            endpoints: prepared.connect.clone(),
            reason: format!("no answer within {} s", CLIENT_CONNECT_MS / 1000),
        }
    } else {
        FabricError::Zenoh {
            action: "open a session".to_owned(),
            reason,
        }
    }
}

/// Where a session listens, for people: `HOST:PORT` for the usual pair of endpoints, zenoh's notation for others.
pub(crate) async fn endpoints(session: &zenoh::Session, prepared: &Prepared) -> Vec<String> {
    // zenoh lists the addresses behind a wildcard, but leaves loopback addresses out.
    let locators: Vec<String> = session
        .info()
        .locators()
        .await
        .iter()
        .map(ToString::to_string)
        .collect();
    let loopback = prepared
        .listen
        .iter()
        .filter(|endpoint| !endpoint.contains("/[::]:") && !endpoint.contains("/0.0.0.0:"));
    let mut endpoints = Vec::new();
    for endpoint in locators.iter().chain(loopback) {
        let bare = endpoint.split('?').next().unwrap_or(endpoint);
        let human = bare
            .strip_prefix("tcp/")
            .or_else(|| bare.strip_prefix("udp/"))
            .unwrap_or(bare)
            .to_owned();
        if !endpoints.contains(&human) {
            endpoints.push(human);
        }
    }
    endpoints
}
