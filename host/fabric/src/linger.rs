//! Closing a connection must hold nobody up.
//!
//! zenoh gives its TCP sockets ten seconds to deliver what they still hold when they are closed (`SO_LINGER`), and closes them on the
//! thread that takes in what comes from everybody else. When the other side is frozen or cut off, that thread stands still for
//! as long, so that one node that goes takes all others along. zenoh has no setting for it. Without the option the kernel goes on
//! delivering by itself, and closing returns at once.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::net::{SocketType, sockopt};
use rustix::process::{ForeignRawFd, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Takes the option from all stream sockets of this process that have it. zenoh does not hand out its sockets.
pub(crate) fn never() -> std::io::Result<()> {
    // A second descriptor of each, which is ours to look at, however soon zenoh closes the first.
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let numbers = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers.collect::<Vec<ForeignRawFd>>() {
        // What is no socket, or has been closed meanwhile, is none of our business.
        if let Ok(socket) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty())
            && lingers(&socket)
        {
            sockopt::set_socket_linger(&socket, None)?;
        }
    }
    Ok(())
}

fn lingers(socket: &OwnedFd) -> bool {
    sockopt::socket_type(socket) == Ok(SocketType::STREAM)
        && sockopt::socket_linger(socket).is_ok_and(|linger| linger.is_some())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_connection_lingers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sockopt::set_socket_linger(&stream, Some(Duration::from_secs(10))).unwrap();
        never().unwrap();
        assert_eq!(sockopt::socket_linger(&stream), Ok(None));
    }
}
