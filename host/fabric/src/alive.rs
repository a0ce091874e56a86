//! The question whether a node is alive, on the control plane. Every node answers it, whatever else it serves.

use std::time::Duration;

use zenoh::bytes::ZBytes;
use zenoh::qos::{CongestionControl, Priority};
use zenoh::query::Queryable;

use crate::{FabricConfig, FabricError, NodeId};

/// A node that is alive answers within this, however busy it is.
const PATIENCE: Duration = Duration::from_secs(2);

fn key(cluster: &str, node: &NodeId) -> String {
    format!("halo/{cluster}/alive/{node}")
}

/// Answers for this node until the queryable is dropped.
pub(crate) async fn answer(
    session: &zenoh::Session,
    config: &FabricConfig,
) -> Result<Queryable<()>, FabricError> {
    let runtime = tokio::runtime::Handle::current();
    session
        .declare_queryable(key(&config.cluster, &config.node))
        .callback(move |query| {
            runtime.spawn(async move {
                let key = query.key_expr().clone();
                if let Err(error) = query.reply(key, ZBytes::new()).await {
                    tracing::debug!(%error, "answer not sent");
                }
            });
        })
        .await
        .map_err(|reason| FabricError::zenoh("answer requests", &reason))
}

/// Asks a node.
pub(crate) async fn ask(session: zenoh::Session, cluster: String, node: NodeId) -> (NodeId, bool) {
    let replies = session
        .get(key(&cluster, &node))
        .timeout(PATIENCE)
        .congestion_control(CongestionControl::Drop)
        .priority(Priority::InteractiveHigh)
        .await;
    let answered = match replies {
        Ok(replies) => matches!(replies.recv_async().await, Ok(reply) if reply.result().is_ok()),
        Err(error) => {
            tracing::debug!(%node, %error, "not asked");
            false
        }
    };
    (node, answered)
}
