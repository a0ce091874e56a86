//! A timeline in the Chrome trace format, which Perfetto and chrome://tracing show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use halo_fabric::NodeId;
use halo_runtime::timeline::Span;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::output;

/// What contains the other spans.
const ROUND: &str = "round";

/// An event as the format has it. Times are in microseconds.
#[derive(Serialize)]
#[serde(tag = "ph")]
enum Event<'a> {
    /// Something that lasts.
    X {
        name: &'a str,
        pid: usize,
        tid: usize,
        ts: f64,
        dur: f64,
        args: &'a BTreeMap<String, u64>,
    },
    /// A process's or a thread's name.
    M {
        name: &'a str,
        pid: usize,
        tid: usize,
        args: BTreeMap<&'a str, &'a str>,
    },
}

/// Where a trace is to go. A file beside it is made at once, so that a path that cannot be written to is refused before anything is
/// generated, and takes its place when it is whole: what was there before is not lost to a run that fails.
pub(crate) struct TraceFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl TraceFile {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let file = if path.is_dir() {
            Err(io::ErrorKind::IsADirectory.into())
        } else {
            tempfile::Builder::new()
                .permissions(Permissions::from_mode(0o666))
                .tempfile_in(folder.unwrap_or(Path::new(".")))
        };
        let file = file.with_context(|| format!("cannot write the trace to {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// Writes what every node did. The leader is shown first. Gives [what is said](said) of it.
    pub(crate) fn write(
        self,
        leader: &NodeId,
        timelines: &BTreeMap<NodeId, Vec<Span>>,
    ) -> Result<String> {
        let mut file = BufWriter::new(self.file.as_file());
        let written = write(&mut file, leader, timelines).and_then(|()| Ok(file.flush()?));
        drop(file);
        written
            .and_then(|()| Ok(self.file.persist(&self.path)?))
            .with_context(|| format!("cannot write the trace to {}", self.path.display()))?;
        Ok(said(&self.path, leader, timelines))
    }
}

/// In words, what was written, and what the leader's computing thread did with its time.
fn said(path: &Path, leader: &NodeId, timelines: &BTreeMap<NodeId, Vec<Span>>) -> String {
    let spans: usize = timelines.values().map(Vec::len).sum();
    let nodes = match timelines.len() {
        1 => "one node".to_owned(),
        n => format!("{n} nodes"),
    };
    let mut line = format!(
        "{spans} spans of {nodes} in {}, to be opened at https://ui.perfetto.dev",
        path.display()
    );
    let shares = shares(timelines.get(leader).map_or(&[], Vec::as_slice));
    if !shares.is_empty() {
        let shares: Vec<String> = shares
            .iter()
            .map(|(name, share)| format!("{name} {}", output::percent(*share)))
            .collect();
        line += &format!("\nwhere the time went: {}", shares.join(", "));
    }
    line
}

/// Of the time that the thread with the attention had, the share of each thing that it did, the largest first.
fn shares(spans: &[Span]) -> Vec<(&str, f64)> {
    let Some(thread) = spans.iter().find(|s| s.name == "attention") else {
        return Vec::new();
    };
    let mut times: BTreeMap<&str, i64> = BTreeMap::new();
    let own = |s: &&Span| s.thread == thread.thread && s.name != ROUND;
    for span in spans.iter().filter(own) {
        *times.entry(&span.name).or_default() += span.duration;
    }
    let all: i64 = times.values().sum();
    let mut shares: Vec<_> = times
        .into_iter()
        .map(|(name, time)| (name, time as f64 / all.max(1) as f64))
        .collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}

fn write(
    file: &mut impl Write,
    leader: &NodeId,
    timelines: &BTreeMap<NodeId, Vec<Span>>,
) -> Result<()> {
    let begin = timelines.values().flatten().map(|s| s.begin).min();
    let begin = begin.unwrap_or_default();
    let mut nodes: Vec<_> = timelines.iter().collect();
    nodes.sort_by_key(|(node, _)| *node != leader);
    let mut separator = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
    let mut event = |event: Event<'_>| -> Result<()> {
        file.write_all(separator.as_bytes())?;
        separator = ",\n";
        Ok(serde_json::to_writer(&mut *file, &event)?)
    };
    for (pid, (node, spans)) in nodes.into_iter().enumerate() {
        let named = |name, tid, value| Event::M {
            name,
            pid,
            tid,
            args: [("name", value)].into(),
        };
        event(named("process_name", 0, node.as_str()))?;
        let threads: BTreeSet<&str> = spans.iter().map(|s| s.thread.as_str()).collect();
        let threads: BTreeMap<&str, usize> = threads.into_iter().zip(1..).collect();
        for (thread, tid) in &threads {
            event(named("thread_name", *tid, thread))?;
        }
        for span in spans {
            let micros = |nanos: i64| nanos as f64 / 1e3;
            event(Event::X {
                name: &span.name,
                pid,
                tid: threads[span.thread.as_str()],
                ts: micros(span.begin - begin),
                dur: micros(span.duration),
                args: &span.of,
            })?;
        }
    }
    Ok(file.write_all(b"\n]}\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, thread: &str, begin: i64, duration: i64) -> Span {
        Span {
            name: name.into(),
            thread: thread.into(),
            begin,
            duration,
            of: [("layer".to_owned(), 3)].into(),
        }
    }

    fn timelines() -> (NodeId, BTreeMap<NodeId, Vec<Span>>) {
        let leader: NodeId = "z".parse().unwrap();
        let own = vec![
            span("attention", "main", 5_000, 3_000),
            span("wait", "main", 8_000, 1_000),
            span("round", "main", 8_000, 1_000),
            span("read", "halo-stream", 5_000, 9_000),
        ];
        let worker = vec![span("feed-forward", "halo-worker", 8_500, 250)];
        let timelines = [(leader.clone(), own), ("a".parse().unwrap(), worker)];
        (leader, timelines.into())
    }

    #[test]
    fn the_format_is_chromes() {
        let (leader, timelines) = timelines();
        let mut file = Vec::new();
        write(&mut file, &leader, &timelines).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let first = &events[0];
        assert_eq!(
            (&first["ph"], &first["name"]),
            (&"M".into(), &"process_name".into())
        );
        assert_eq!(first["args"]["name"], "z");
        let last = events.last().unwrap();
        assert_eq!(
            (&last["ph"], &last["name"]),
            (&"X".into(), &"feed-forward".into())
        );
        assert_eq!((&last["ts"], &last["dur"]), (&3.5.into(), &0.25.into()));
        assert_eq!(last["args"]["layer"], 3);
        assert_eq!((&last["pid"], &last["tid"]), (&1.into(), &1.into()));
    }

    #[test]
    fn shares_are_of_the_leaders_computing_thread() {
        let (leader, timelines) = timelines();
        assert_eq!(
            shares(&timelines[&leader]),
            [("attention", 0.75), ("wait", 0.25)]
        );
        assert!(shares(&[]).is_empty());
    }
}
