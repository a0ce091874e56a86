use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::error::{GenerationError, NodeError};
use crate::generation::{Report, Request, Token};
use crate::generator::{GenerationId, Generator, Progress};

/// A [`Generator`] for many at once: whoever calls waits for their own generation, and all that are under way share its passes.
/// Clones share it. It ends when the last is dropped and its generations have ended.
#[derive(Debug, Clone)]
pub struct Batcher {
    jobs: Sender<Job>,
}

#[derive(Debug)]
struct Job {
    request: Request,
    progress: Sender<Progress>,
    stop: Arc<AtomicBool>,
}

impl Job {
    /// Whoever does not listen any more wants no more tokens.
    fn tell(&self, progress: Progress) {
        if self.progress.send(progress).is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Batcher {
    /// Starts the thread that generates, for `at_once` generations at a time; more wait for their turn.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start(generator: Generator, at_once: usize) -> Result<Self, NodeError> {
        let (jobs, inbox) = channel();
        let most = at_once.clamp(1, Generator::MOST);
        thread::Builder::new()
            .name("halo-batcher".into())
            .spawn(move || serve(generator, most, &inbox))
            .map_err(|e| NodeError::Task(e.to_string()))?;
        Ok(Self { jobs })
    }

    /// As [`Generator::generate`], beside what others generate.
    ///
    /// # Errors
    ///
    /// The request cannot be met, or the generation cannot go on.
    pub fn generate(
        &self,
        request: &Request,
        mut each: impl FnMut(&Token) -> ControlFlow<()>,
    ) -> Result<Report, GenerationError> {
        let (progress, events) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let job = Job {
            request: request.clone(),
            progress,
            stop: Arc::clone(&stop),
        };
        self.jobs.send(job).map_err(|_| GenerationError::Closed)?;
        for event in events {
            match event {
                Progress::Token(token) => {
                    // Tokens may be on their way when the caller has had enough.
                    if !stop.load(Ordering::Relaxed) && each(&token).is_break() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                Progress::Done(report) => return Ok(*report),
                Progress::Failed(error) => return Err(error),
            }
        }
        Err(GenerationError::Closed)
    }
}

/// Generates until nobody can ask for more.
fn serve(mut generator: Generator, most: usize, inbox: &Receiver<Job>) {
    let mut waiting = VecDeque::new();
    let mut under_way = BTreeMap::<GenerationId, Job>::new();
    loop {
        if under_way.is_empty() && waiting.is_empty() {
            match inbox.recv() {
                Ok(job) => waiting.push_back(job),
                Err(_) => return,
            }
        }
        waiting.extend(inbox.try_iter());
        let stopped = under_way.extract_if(.., |_, job| job.stop.load(Ordering::Relaxed));
        for (id, job) in stopped {
            if let Some(report) = generator.leave(id) {
                job.tell(report.into());
            }
        }
        while under_way.len() < most
            && let Some(job) = waiting.pop_front()
        {
            match generator.join(&job.request) {
                Ok(id) => drop(under_way.insert(id, job)),
                // Those that end will leave memory behind.
                Err(GenerationError::NoMemory { .. }) if !under_way.is_empty() => {
                    waiting.push_front(job);
                    break;
                }
                Err(error) => job.tell(Progress::Failed(error)),
            }
        }
        match generator.step() {
            Ok(events) => {
                for (id, progress) in events {
                    let ended = !matches!(progress, Progress::Token(_));
                    if let Some(job) = under_way.get(&id) {
                        job.tell(progress);
                    }
                    if ended {
                        under_way.remove(&id);
                    }
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for job in std::mem::take(&mut under_way).into_values() {
                    job.tell(Progress::Failed(GenerationError::Shared(Arc::clone(
                        &error,
                    ))));
                }
            }
        }
    }
}
