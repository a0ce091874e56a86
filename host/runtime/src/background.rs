//! Long work beside a generation, which gives way to what computes.

use std::io;
use std::thread;

use tokio::sync::oneshot;
use tracing::debug;

/// How much less urgent it is: while rounds want the same core, it gets about a tenth of it. It gets all that rounds leave, which is what
/// they wait in, so it is seldom much slower for it; at 19, the most there is, it could take minutes on a core that is never idle.
const NICENESS: i32 = 10;

/// Runs work on a thread of its own, for which one from a pool would not do: an unprivileged thread cannot become urgent again.
///
/// # Errors
///
/// There is no thread to be had, or the work panicked.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let giving_way = move || {
        // On Linux this is of the thread that calls it. Without, the work is as urgent as everything else.
        if let Err(error) = rustix::process::nice(NICENESS) {
            debug!("work beside a generation does not give way to it: {error}");
        }
        // Nobody may be waiting for it any more.
        let _ = sender.send(work());
    };
    thread::Builder::new()
        .name("halo-background".into())
        .spawn(giving_way)?;
    let lost = |_| io::Error::other("work beside a generation panicked");
    receiver.await.map_err(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_gives_way_and_nothing_else_does() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let own = niceness();
        assert_eq!(run(niceness).await.unwrap(), (own + NICENESS).min(19));
        assert_eq!(niceness(), own);
        assert!(run(|| panic!("told to")).await.is_err());
    }
}
