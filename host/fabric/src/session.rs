//! Opening zenoh's sessions, and what can stand in the way.
//!
//! A node has two. With a reliable and an unreliable link in one session, zenoh tells the other side what is declared here over
//! whichever link comes first, and what is lost over UDP then is never told again; a link that fails while the other holds is often not
//! made anew; and a node found by scouting is tried for once. Each by itself, a session connects again until it has what it needs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use zenoh::config::WhatAmI;

use crate::config::{CLIENT_CONNECT_MS, Prepared, Wire};
use crate::error::words;
use crate::{FabricError, Mode, connect};

/// How long a session that was given up may keep its ports.
const CLOSING: Duration = Duration::from_secs(3);

/// Between two looks whether they are free.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A node's connections.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    /// For declarations and control, over TCP.
    pub(crate) control: zenoh::Session,
    /// For packets, over UDP.
    pub(crate) data: zenoh::Session,
}

impl Sessions {
    /// Opens both, the first with links to all nodes that can be reached.
    pub(crate) async fn open(prepared: &Arc<Prepared>) -> Result<Self, FabricError> {
        // In a task of its own: zenoh blocks the thread that opens a session, and other futures of the same task would miss
        // what wakes them meanwhile.
        let data = tokio::spawn({
            let prepared = Arc::clone(prepared);
            async move { data(&prepared).await }
        });
        let control = control(prepared).await?;
        let data = data.await.map_err(|error| FabricError::Zenoh {
            action: "open a session".to_owned(),
            reason: error.to_string(),
        })??;
        Ok(Self { control, data })
    }

    /// Closes both.
    pub(crate) async fn close(&self) {
        for session in [&self.control, &self.data] {
            if let Err(error) = session.close().await {
                tracing::debug!(%error, "closing the session");
            }
        }
    }
}

async fn control(prepared: &Prepared) -> Result<zenoh::Session, FabricError> {
    let wire = &prepared.control;
    let mut patient_until = Instant::now();
    if prepared.mode != Mode::Client && !wire.connect.is_empty() {
        let first = wire.with(connect::reachable_first(&wire.connect).await)?;
        match zenoh::open(first).await {
            Ok(session) => return Ok(session),
            // Somebody listens, but does not speak zenoh. What else is wrong will be told below.
            Err(reason) => tracing::warn!(
                "not connected to all of {}: {}; going on without",
                prepared.connect.join(", "),
                words(&reason)
            ),
        }
        patient_until = Instant::now() + CLOSING;
    }
    loop {
        match zenoh::open(wire.zenoh.clone()).await {
            // zenoh closes the session that could not connect to all in its own time.
            Err(reason) if in_use(&words(&reason)) && Instant::now() < patient_until => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => return opened.map_err(|reason| failed(prepared, wire, &words(&reason))),
        }
    }
}

async fn data(prepared: &Prepared) -> Result<zenoh::Session, FabricError> {
    let wire = &prepared.data;
    let mut zenoh = wire.zenoh.clone();
    if prepared.mode == Mode::Client && wire.connect.is_empty() {
        // Either the router is to be found, and has no group for tensors, or there is no way to it but TCP.
        let endpoints = match &prepared.control.connect {
            given if !given.is_empty() => given.clone(),
            _ => find_router(&prepared.control).await,
        };
        zenoh = wire.with([("connect/endpoints", endpoints.into())])?;
    }
    let opened = zenoh::open(zenoh).await;
    opened.map_err(|reason| failed(prepared, wire, &words(&reason)))
}

/// The endpoints over UDP of the first router that answers.
async fn find_router(control: &Wire) -> Vec<String> {
    let Ok(found) = zenoh::scout(WhatAmI::Router, control.zenoh.clone()).await else {
        return Vec::new();
    };
    let patience = Duration::from_millis(CLIENT_CONNECT_MS);
    let hello = tokio::time::timeout(patience, found.recv_async()).await;
    let locators = hello.ok().and_then(Result::ok);
    let locators = locators.iter().flat_map(|hello| hello.locators());
    locators
        .filter(|locator| locator.protocol().as_str() == "udp")
        .map(ToString::to_string)
        .collect()
}

/// Whether a session could not be opened for want of its ports. zenoh has no error types.
fn in_use(reason: &str) -> bool {
    reason.contains("in use")
}

/// Why a session could not be opened.
fn failed(prepared: &Prepared, wire: &Wire, reason: &str) -> FabricError {
    // That a port is free has been checked, but it may have been taken since.
    if in_use(reason) {
        FabricError::PortInUse {
            endpoint: wire.listen.join(" or "),
        }
    } else if reason.contains("Unable to connect") || reason.contains("timeout") {
        FabricError::CannotConnect {
            endpoints: prepared.connect.clone(),
            reason: format!("no answer within {} s", CLIENT_CONNECT_MS / 1000),
        }
    } else {
        FabricError::Zenoh {
            action: "open a session".to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// Where a node listens, for people: `HOST:PORT` for the usual pair of endpoints, zenoh's notation for others.
pub(crate) async fn endpoints(sessions: &Sessions, prepared: &Prepared) -> Vec<String> {
    let mut endpoints = Vec::new();
    for (session, wire) in [
        (&sessions.control, &prepared.control),
        (&sessions.data, &prepared.data),
    ] {
        // zenoh lists the addresses behind a wildcard, but leaves loopback addresses out.
        let locators = session.info().locators().await;
        let loopback = wire
            .listen
            .iter()
            .filter(|endpoint| !endpoint.contains("/[::]:") && !endpoint.contains("/0.0.0.0:"));
        for endpoint in locators
            .iter()
            .map(ToString::to_string)
            .chain(loopback.cloned())
        {
            let bare = endpoint.split('?').next().unwrap_or(&endpoint);
            let human = bare
                .strip_prefix("tcp/")
                .or_else(|| bare.strip_prefix("udp/"))
                .unwrap_or(bare)
                .to_owned();
            if !endpoints.contains(&human) {
                endpoints.push(human);
            }
        }
    }
    endpoints
}
