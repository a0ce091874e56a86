//! Requests and replies on the control plane, over zenoh's queries, on the reliable link: JSON, or bytes in bulk.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use zenoh::bytes::{Encoding, ZBytes};
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::{Query, Queryable};

use crate::{CallError, FabricConfig, FabricError, NodeId};

/// The largest request or answer. Anything larger has to be cut into pieces, so that it cannot hold up other calls.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Calls of one service that may be under way at once; more are refused.
const MAX_CONCURRENT: usize = 64;

/// A kind of requests: the part of their keys that names it, and their priority.
#[derive(Clone, Copy)]
pub(crate) struct Plane {
    key: &'static str,
    priority: Priority,
}

/// Above bulk data, below tensors: a call neither waits for the one nor delays the other.
pub(crate) const CONTROL: Plane = Plane {
    key: "control",
    priority: Priority::InteractiveLow,
};

/// Below everything else.
pub(crate) const BULK: Plane = Plane {
    key: "bulk",
    priority: Priority::Background,
};

/// How often a caller looks whether the node has become reachable.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// The longest a handler may take, whatever the caller would wait for.
const LONGEST_CALL: Duration = Duration::from_secs(600);

/// The largest envelope.
const MAX_ENVELOPE_BYTES: usize = 256;

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

/// What goes along with a request.
#[derive(Serialize, Deserialize)]
struct Envelope {
    from: NodeId,
    timeout_ms: u64,
}

/// What a handler gives back: the answer, or the reason why there is none.
pub type HandlerFuture<T = serde_json::Value> =
    Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'static>>;

/// What answers requests. Called once for each; several may be under way at once.
pub trait Handler<T = serde_json::Value>:
    Fn(Call) -> HandlerFuture<T> + Send + Sync + 'static
{
}

impl<T, F: Fn(Call) -> HandlerFuture<T> + Send + Sync + 'static> Handler<T> for F {}

/// Keeps a handler answering; dropping it stops that. Calls under way are finished.
///
/// A call that takes longer than its caller waits, or longer than ten minutes, is dropped where it stands.
#[must_use = "requests are answered only as long as this is kept"]
pub struct Service {
    _queryable: Queryable<()>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

/// Answers requests of one kind to this node; `write` makes bytes of an answer.
pub(crate) async fn serve<T: Send + 'static>(
    session: &zenoh::Session,
    config: &FabricConfig,
    plane: Plane,
    handler: impl Handler<T>,
    write: fn(T) -> Vec<u8>,
) -> Result<Service, FabricError> {
    let handler = Arc::new(handler);
    let slots = Arc::new(Semaphore::new(MAX_CONCURRENT));
    let runtime = tokio::runtime::Handle::current();
    let queryable = session
        .declare_queryable(format!(
            "halo/{}/{}/{}/*",
            config.cluster, plane.key, config.node
        ))
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
                    (Ok(_slot), Ok((call, time))) => {
                        let Ok(answer) = tokio::time::timeout(time, handler(call)).await else {
                            // Nobody waits any more.
                            return;
                        };
                        answer.map(write)
                    }
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

/// Reads a request, and how long the caller waits.
fn read_call(query: &Query) -> Result<(Call, Duration), String> {
    let operation = query.key_expr().as_str().rsplit('/').next();
    let operation = operation
        .filter(|o| is_operation(o))
        .ok_or("no operation")?;
    let body = query.payload().ok_or("no body")?;
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(format!("a body of {} bytes is too large", body.len()));
    }
    let envelope = query
        .attachment()
        .filter(|bytes| bytes.len() <= MAX_ENVELOPE_BYTES)
        .and_then(|bytes| serde_json::from_slice::<Envelope>(&bytes.to_bytes()).ok());
    let time = envelope.as_ref().map_or(LONGEST_CALL, |envelope| {
        Duration::from_millis(envelope.timeout_ms).min(LONGEST_CALL)
    });
    let call = Call {
        from: envelope.map(|envelope| envelope.from),
        operation: operation.to_owned(),
        body: serde_json::from_slice(&body.to_bytes()).map_err(|e| e.to_string())?,
    };
    Ok((call, time))
}

/// Sends an answer or a refusal.
async fn reply(query: &Query, answer: Result<Vec<u8>, String>) {
    let answer = answer.and_then(|bytes| {
        if bytes.len() > MAX_MESSAGE_BYTES {
            Err(format!("the answer of {} bytes is too large", bytes.len()))
        } else {
            Ok(bytes)
        }
    });
    let sent = match answer {
        // Answers go by the request's priority and congestion control.
        Ok(bytes) => query.reply(query.key_expr(), bytes).await,
        Err(reason) => query.reply_err(reason).encoding(REFUSAL).await,
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "answer not sent");
    }
}

/// Asks a node for something in JSON.
pub(crate) async fn call<Q: Serialize, R: DeserializeOwned>(
    session: &zenoh::Session,
    config: &FabricConfig,
    to: &NodeId,
    operation: &str,
    request: &Q,
    timeout: Duration,
) -> Result<R, CallError> {
    let answer = ask(session, config, CONTROL, to, operation, request, timeout).await?;
    serde_json::from_slice(&answer.to_bytes()).map_err(|error| CallError::Malformed {
        node: to.clone(),
        operation: operation.to_owned(),
        reason: error.to_string(),
    })
}

/// Asks a node.
pub(crate) async fn ask<Q: Serialize>(
    session: &zenoh::Session,
    config: &FabricConfig,
    plane: Plane,
    to: &NodeId,
    operation: &str,
    request: &Q,
    timeout: Duration,
) -> Result<ZBytes, CallError> {
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
    let deadline = tokio::time::Instant::now() + timeout;
    let querier = session
        .declare_querier(format!(
            "halo/{}/{}/{to}/{operation}",
            config.cluster, plane.key
        ))
        .congestion_control(CongestionControl::Block)
        .priority(plane.priority)
        .timeout(timeout)
        .await
        .map_err(failed)?;
    // A request that reaches nobody ends at once. The node may just be joining, so wait for it rather than ask twice:
    // a request is never carried out twice.
    while !querier.matching_status().await.map_err(failed)?.matching() {
        if tokio::time::Instant::now() >= deadline {
            return Err(no_answer());
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
    let envelope = Envelope {
        from: config.node.clone(),
        timeout_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
    };
    let envelope = serde_json::to_vec(&envelope).map_err(|e| malformed(e.to_string()))?;
    let replies = querier
        .get()
        .payload(body)
        .encoding(Encoding::APPLICATION_JSON)
        .attachment(envelope)
        .await
        .map_err(failed)?;
    let reply = match tokio::time::timeout_at(deadline, replies.recv_async()).await {
        Ok(Ok(reply)) => reply,
        Err(_) => return Err(no_answer()),
        Ok(Err(_)) if tokio::time::Instant::now() >= deadline => return Err(no_answer()),
        // Nobody is left to answer, though there is time.
        Ok(Err(_)) => {
            return Err(CallError::Gone {
                node: to.clone(),
                operation: operation.to_owned(),
            });
        }
    };
    match reply.into_result() {
        Ok(sample) if sample.payload().len() > MAX_MESSAGE_BYTES => {
            Err(too_large(sample.payload().len()))
        }
        Ok(sample) => Ok(sample.payload().clone()),
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
