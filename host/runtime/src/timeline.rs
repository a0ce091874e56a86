//! What a process did when: the spans of a generation, for a trace.
//!
//! The engine and the runtime enter `tracing` spans with the target [`TIMELINE`]. Nothing listens to them until recording begins,
//! here and, by a question on the control plane, on the workers. No clock is trusted but one's own: a worker's times are brought
//! to the leader's by the rounds that both took part in.

mod align;
mod recorder;

use std::collections::{BTreeMap, BTreeSet};

use halo_engine::TIMELINE;
use halo_fabric::{CallError, Fabric, NodeId};
use serde::{Deserialize, Serialize};
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::cluster::{self, PATIENCE};
use crate::messages;

/// Spans in one answer.
const PAGE: usize = 10_000;

/// What a thread did for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// What it did.
    pub name: String,
    /// The thread's name.
    pub thread: String,
    /// When it began, in nanoseconds of the node's own clock, or of the leader's once it is aligned.
    pub begin: i64,
    /// How long it took, in nanoseconds.
    pub duration: i64,
    /// Of what: `layer`, `step`, `generation`.
    pub of: BTreeMap<String, u64>,
}

/// What to do about the timeline of a node.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wish {
    /// Record from now on; what was recorded before is forgotten.
    Begin,
    /// Record no more.
    End,
    /// Tell what was recorded, from this span on.
    Tell(usize),
}

/// Some of what was recorded.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Page {
    spans: Vec<Span>,
    /// Where the next page begins, if there is one.
    next: Option<usize>,
}

/// Listens to the spans of this process, while recording. For the process's `tracing` subscriber.
pub fn layer<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    recorder::Recorder.with_filter(recorder::WhileRecording)
}

/// Does what another node asks.
pub(crate) fn answer(wish: Wish) -> Page {
    match wish {
        Wish::Begin => recorder::begin(),
        Wish::End => recorder::end(),
        Wish::Tell(from) => {
            let (spans, more) = recorder::recorded(from, PAGE);
            let next = more.then(|| from + spans.len());
            return Page { spans, next };
        }
    }
    Page::default()
}

/// Begins to record here and on `workers`. Gives those that do not, and why.
pub(crate) async fn begin(
    fabric: &Fabric,
    workers: BTreeSet<NodeId>,
) -> BTreeMap<NodeId, CallError> {
    recorder::begin();
    let answers =
        cluster::ask::<_, Page>(fabric, workers, messages::TIMELINE, &Wish::Begin, PATIENCE).await;
    let refusal = |(node, answer): (_, Result<_, _>)| Some((node, answer.err()?));
    answers.into_iter().filter_map(refusal).collect()
}

/// Ends recording, and gives what this node and `workers` did, by the clock of this node.
pub(crate) async fn end(fabric: &Fabric, workers: BTreeSet<NodeId>) -> BTreeMap<NodeId, Vec<Span>> {
    let own = end_here();
    cluster::ask::<_, Page>(
        fabric,
        workers.clone(),
        messages::TIMELINE,
        &Wish::End,
        PATIENCE,
    )
    .await;
    let mut timelines = BTreeMap::new();
    for worker in workers {
        let mut spans = tell(fabric, &worker).await;
        align::align(&own, &mut spans);
        timelines.insert(worker, spans);
    }
    timelines.insert(fabric.node().clone(), own);
    timelines
}

/// Begins to record in this process.
pub fn begin_here() {
    recorder::begin();
}

/// Ends recording in this process, and gives what it did.
pub fn end_here() -> Vec<Span> {
    recorder::end();
    recorder::recorded(0, usize::MAX).0
}

/// What a worker recorded, as far as it tells.
async fn tell(fabric: &Fabric, worker: &NodeId) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut next = Some(0);
    while let Some(from) = next {
        let wish = Wish::Tell(from);
        match fabric
            .call::<_, Page>(worker, messages::TIMELINE, &wish, PATIENCE)
            .await
        {
            Ok(page) => {
                // A page without spans would be asked for for ever.
                next = page.next.filter(|_| !page.spans.is_empty());
                spans.extend(page.spans);
            }
            Err(error) => {
                tracing::warn!("{worker} does not tell what it did: {error}");
                break;
            }
        }
    }
    spans
}
