//! A process of the program, and what it says.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

/// Guards against hanging for ever. Nothing depends on it otherwise, so it is far longer than anything takes.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// A command of the program under test: the one that was built with the tests, or what `HALO_TEST_PROGRAM` names in its place,
/// such as a script that emulates another processor.
pub(crate) fn halo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let named = std::env::var_os("HALO_TEST_PROGRAM");
    let program = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_halo").into());
    command_of(&program, arguments)
}

/// A command of a program like `halo`. `HALO_LOG` may ask it to log more than usual.
pub(crate) fn command_of<A: AsRef<OsStr>>(
    program: &OsStr,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    /// What tests look for in logs.
    const LOG: &str = "warn,ort=error,zenoh=error,halo_runtime=info,halo_policy=info";
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env(
            "HALO_LOG",
            std::env::var("HALO_LOG").unwrap_or_else(|_| LOG.into()),
        )
        .env_remove("HALO_MODEL")
        .env_remove("HALO_CONFIG");
    command
}

/// Runs a command of the program to its end.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    halo(arguments).output().expect("the program starts")
}

/// A process that goes on beside the test, and is killed with this value.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    events: BufReader<UnixStream>,
    pub(crate) log: Log,
}

impl Process {
    /// Starts a process that prints JSON, one value to a line.
    ///
    /// Its output is a socket with as small a buffer as there is: it waits when it is some lines ahead of us.
    pub(crate) fn start(name: &str, mut command: Command) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 0).expect("a small buffer");
        ours.set_read_timeout(Some(HANG)).expect("a time limit");
        command
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        // Else this process would hold the other end of the socket open.
        drop(command);
        let stderr = child.stderr.take().expect("its standard error");
        Self {
            name: name.to_owned(),
            child,
            events: BufReader::new(ours),
            log: Log::of(stderr),
        }
    }

    /// The next line, or nothing at the end.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut line = String::new();
        match self.events.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                Some(serde_json::from_str(&line).unwrap_or_else(|e| {
                    panic!("{} says {line:?}, which is no event: {e}", self.name)
                }))
            }
            Err(error) => panic!("{} says nothing any more: {error}", self.name),
        }
    }

    /// Waits for its end, which must be near, and a good one.
    pub(crate) fn end(&mut self) {
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Ends it at once, without a chance to say good-bye.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("its end");
    }

    /// Bytes of memory that it takes now.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.child.id());
        let statm = std::fs::read_to_string(path).expect("a living process");
        let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        pages.expect("a number of pages") * rustix::param::page_size() as u64
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        // One that has ended already cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            if let Ok(Some(status)) = ended {
                eprintln!("{}: ended with {status}", self.name);
            }
            for line in self.log.lines() {
                eprintln!("{}: {line}", self.name);
            }
        }
    }
}

/// What a process has written to its standard error.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Log {
    fn of(stderr: ChildStderr) -> Self {
        let log = Self(Arc::default());
        let writer = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let (lines, changed) = &*writer.0;
                lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
                changed.notify_all();
            }
        });
        log
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many lines contain all of `parts`.
    pub(crate) fn count(&self, parts: &[&str]) -> usize {
        count(&self.lines(), parts)
    }

    /// Waits for a line that contains all of `parts`.
    pub(crate) fn wait_for(&self, parts: &[&str]) {
        self.wait_for_more(0, parts);
    }

    /// Waits until more than so many lines contain all of `parts`.
    pub(crate) fn wait_for_more(&self, than: usize, parts: &[&str]) {
        let (lines, changed) = &*self.0;
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, waited) = changed
            .wait_timeout_while(lines, HANG, |lines| count(lines, parts) <= than)
            .unwrap_or_else(PoisonError::into_inner);
        drop(lines);
        assert!(
            !waited.timed_out(),
            "{parts:?} is not in the log more than {than} times"
        );
    }
}

fn count(lines: &[String], parts: &[&str]) -> usize {
    lines
        .iter()
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .count()
}
