//! Requests and replies on the control plane: JSON over zenoh's queries, on the reliable link.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use zenoh::bytes::{Encoding, ZBytes};
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::{Query, Queryable};

use crate::{CallError, FabricConfig, FabricError, NodeId};

/// The largest request or answer. Anything larger has to be cut into pieces, so that it cannot hold up other calls.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Calls of one service that may be under way at once; more are refused.
const MAX_CONCURRENT: usize = 64;

/// Above bulk data, below tensors: a call neither waits for the one nor delays the other.
const PRIORITY: Priority = Priority::InteractiveLow;

/// Marks an answer that is a refusal, rather than one of zenoh's own errors.
const REFUSAL: &str = "halo/refusal";

/// A request from another node.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Who asks, by its own account.
    pub from: Option<NodeId>,
    /// What it asks for.
    pub operation: String,
    /// With what.
    pub body: serde_json::Value,
}

/// What a handler gives back: the answer, or the reason why there is none.
pub type HandlerFuture =
    Pin<Box<dyn Future<Output = Result<serde_json::Value, String>> + Send + 'static>>;

/// What answers requests. Called once for each; several may be under way at once.
pub trait Handler: Fn(Call) -> HandlerFuture + Send + Sync + 'static {}

impl<F: Fn(Call) -> HandlerFuture + Send + Sync + 'static> Handler for F {}

/// Keeps a handler answering; dropping it stops that. Calls under way are finished.
#[must_use = "requests are answered only as long as this is kept"]
pub struct Service {
    _queryable: Queryable<()>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// Answers requests to this node.
pub(crate) async fn serve(
    session: &zenoh::Session,
    config: &FabricConfig,
    handler: impl Handler,
) -> Result<Service, FabricError> {
    let handler = Arc::new(handler);
    let slots = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let runtime = tokio::runtime::Handle::current();
    let queryable = session
        .declare_queryable(format!("halo/{}/control/{}/*", config.cluster, config.node))
        .complete(true)
        .callback(move |query| {
            let handler = Arc::clone(&handler);
            let slot = Arc::clone(&slots).try_acquire_owned();
            runtime.spawn(async move {
                let answer = match (slot, read_call(&query)) {
                    (Err(_), _) => Err(format!(
                        "{MAX_CONCURRENT} calls are under way already; try again"
                    )),
                    (Ok(_), Err(reason)) => Err(reason),
                    (Ok(_slot), Ok(call)) => handler(call).await,
                };
                reply(&query, answer).await;
            });
        })
        .await
        .map_err(|reason| FabricError::zenoh("answer requests", &reason))?;
    Ok(Service {
        _queryable: queryable,
    })
}

/// Reads a request.
fn read_call(query: &Query) -> Result<Call, String> {
    let operation = query.key_expr().as_str().rsplit('/').next();
    let operation = operation
        .filter(|o| is_operation(o))
        .ok_or("no operation")?;
    let body = query.payload().ok_or("no body")?;
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(format!("a body of {} bytes is too large", body.len()));
    }
    let from = query.attachment().filter(|name| name.len() <= 64);
    Ok(Call {
        from: from
            .and_then(|name| String::from_utf8(name.to_bytes().into_owned()).ok())
            .and_then(|name| name.parse().ok()),
        operation: operation.to_owned(),
        body: serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())?,
    })
}

/// Sends an answer or a refusal.
async fn reply(query: &Query, answer: Result<serde_json::Value, String>) {
    let answer = answer.and_then(|value| {
        let bytes = value.to_string().into_bytes();
        if bytes.len() > MAX_MESSAGE_BYTES {
            Err(format!("the answer of {} bytes is too large", bytes.len()))
        } else {
            Ok(bytes)
        }
    });
    let sent = match answer {
        // Answers go by the request's priority and congestion control.
        Ok(bytes) => {
            query
                .reply(query.key_expr(), bytes)
                .encoding(Encoding::APPLICATION_JSON)
                .await
        }
        Err(reason) => query.reply_err(reason).encoding(REFUSAL).await,
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "answer not sent");
    }
}

/// Asks a node.
pub(crate) async fn call<Q: Serialize, R: DeserializeOwned>(
    session: &zenoh::Session,
    config: &FabricConfig,
    to: &NodeId,
    operation: &str,
    request: &Q,
    timeout: Duration,
) -> Result<R, CallError> {
    let malformed = |reason: String| CallError::Malformed {
        node: to.clone(),
        operation: operation.to_owned(),
        reason,
    };
    let too_large = |bytes| CallError::TooLarge {
        node: to.clone(),
        operation: operation.to_owned(),
        bytes,
        limit: MAX_MESSAGE_BYTES,
    };
    let failed = |error: zenoh::Error| CallError::Zenoh {
        node: to.clone(),
        operation: operation.to_owned(),
        reason: error.to_string(),
    };
    let no_answer = || CallError::NoAnswer {
        node: to.clone(),
        operation: operation.to_owned(),
        timeout,
    };

    if !is_operation(operation) {
        return Err(malformed("not the name of an operation".to_owned()));
    }
    let body = serde_json::to_vec(request).map_err(|e| malformed(e.to_string()))?;
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(too_large(body.len()));
    }
    let replies = session
        .get(format!("halo/{}/control/{to}/{operation}", config.cluster))
        .payload(body)
        .encoding(Encoding::APPLICATION_JSON)
        .attachment(config.node.as_str())
        .congestion_control(CongestionControl::Block)
        .priority(PRIORITY)
        .timeout(timeout)
        .await
        .map_err(failed)?;
    // zenoh ends the channel when the timeout has passed, and at once when nobody can answer.
    let reply = match tokio::time::timeout(timeout, replies.recv_async()).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) | Err(_) => return Err(no_answer()),
    };
    match reply.into_result() {
        Ok(sample) if sample.payload().len() > MAX_MESSAGE_BYTES => {
            Err(too_large(sample.payload().len()))
        }
        Ok(sample) => serde_json::from_slice(&sample.payload().to_bytes())
            .map_err(|e| malformed(e.to_string())),
        Err(error) if *error.encoding() == Encoding::from(REFUSAL) => Err(CallError::Refused {
            node: to.clone(),
            operation: operation.to_owned(),
            message: text(error.payload()),
        }),
        // The only other error is that the time is up.
        Err(_) => Err(no_answer()),
    }
}

/// Whether this can be the name of an operation, and so a part of a key.
fn is_operation(name: &str) -> bool {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

/// A message from elsewhere, as text of bounded length.
fn text(bytes: &ZBytes) -> String {
    String::from_utf8_lossy(&bytes.to_bytes())
        .chars()
        .take(4096)
        .collect()
}
