use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use super::{Span, TIMELINE};

/// Spans recorded at most: some minutes of a generation. Later ones are left out.
const CAPACITY: usize = 200_000;

// A process has one subscriber, so it has one recorder.
static RECORDING: AtomicBool = AtomicBool::new(false);
static RECORDED: Mutex<Vec<Span>> = Mutex::new(Vec::new());
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn lock() -> MutexGuard<'static, Vec<Span>> {
    RECORDED.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn begin() {
    LazyLock::force(&ORIGIN);
    lock().clear();
    RECORDING.store(true, Ordering::Relaxed);
}

pub(super) fn end() {
    RECORDING.store(false, Ordering::Relaxed);
}

/// At most `count` spans of those recorded, from one on, and whether there are more.
pub(super) fn recorded(from: usize, count: usize) -> (Vec<Span>, bool) {
    let recorded = lock();
    let rest = recorded.get(from..).unwrap_or_default();
    (rest[..rest.len().min(count)].to_vec(), rest.len() > count)
}

/// Lets the spans of the timeline through, while recording.
pub(super) struct WhileRecording;

impl<S> Filter<S> for WhileRecording {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.target() == TIMELINE && RECORDING.load(Ordering::Relaxed)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TIMELINE {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }
}

/// Keeps every span from when it is entered to when it is left.
pub(super) struct Recorder;

/// A span that has begun.
struct Open {
    begin: Instant,
    of: Of,
}

#[derive(Default)]
struct Of(BTreeMap<String, u64>);

impl Visit for Of {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value);
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut of = Of::default();
        attributes.record(&mut of);
        let begin = Instant::now();
        span.extensions_mut().insert(Open { begin, of });
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        let nanos = |duration: std::time::Duration| duration.as_nanos() as i64;
        let (begin, duration) = (
            nanos(open.begin.saturating_duration_since(*ORIGIN)),
            nanos(open.begin.elapsed()),
        );
        let mut recorded = lock();
        if recorded.len() < CAPACITY {
            recorded.push(Span {
                name: span.name().to_owned(),
                thread: std::thread::current().name().unwrap_or("thread").to_owned(),
                begin,
                duration,
                of: open.of.0,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::trace_span;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn spans_are_kept_while_recording() {
        let subscriber = tracing_subscriber::registry().with(Recorder.with_filter(WhileRecording));
        tracing::subscriber::with_default(subscriber, || {
            let work = |layer: u64| {
                let _outer = trace_span!(target: TIMELINE, "round", layer).entered();
                let _inner = trace_span!(target: TIMELINE, "compute").entered();
                let _other = trace_span!(target: "elsewhere", "nothing").entered();
            };
            work(1);
            begin();
            work(2);
            end();
            work(3);
        });
        let (spans, more) = recorded(0, 1);
        assert!(more);
        assert_eq!(spans[0].name, "compute");
        let (spans, more) = recorded(1, 10);
        assert!(!more);
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].name, "round");
        assert_eq!(spans[0].of["layer"], 2);
        assert!(recorded(7, 10).0.is_empty());
    }
}
