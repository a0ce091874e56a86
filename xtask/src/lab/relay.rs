//! The process that delays what goes to a host.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// What the relay says when its devices are there; anything else is why they are not.
pub(super) const READY: &str = "ready";

/// Frames that may be on their way; a network that is to hold more of them loses the rest.
const CAPACITY: usize = 16_384;

/// More than the largest frame.
const FRAME_BYTES: usize = 2048;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The host's number.
    host: u8,
    /// Microseconds.
    least: u64,
    /// Microseconds.
    jitter: u64,
}

/// The device on the side of the other hosts.
pub(super) fn far(host: u8) -> String {
    format!("far{host}")
}

/// The device on the side of the host.
pub(super) fn near(host: u8) -> String {
    format!("near{host}")
}

/// Passes frames on until the devices are taken away.
pub(crate) fn run(args: &Args) -> Result<()> {
    let devices = device(&far(args.host)).and_then(|far| Ok((far, device(&near(args.host))?)));
    let said = match &devices {
        Ok(_) => READY.to_owned(),
        Err(error) => format!("{error:#}"),
    };
    writeln!(io::stdout(), "{said}")?;
    let (far, near) = devices?;
    let (queue, waiting) = mpsc::sync_channel(CAPACITY);
    let delay = (
        Duration::from_micros(args.least),
        Duration::from_micros(args.jitter),
    );
    thread::scope(|scope| {
        scope.spawn(|| take(&far, queue, delay));
        scope.spawn(|| deliver(waiting, &near));
        scope.spawn(|| pass(&near, &far));
    });
    Ok(())
}

fn device(name: &str) -> Result<SyncDevice> {
    // Without offload, so that frames come with their checksums and in the sizes that a wire carries.
    DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .build_sync()
        .with_context(|| format!("cannot make the TAP device {name}"))
}

/// A frame, and when it is to arrive.
type Late = (Instant, Vec<u8>);

fn take(from: &SyncDevice, queue: SyncSender<Late>, (least, jitter): (Duration, Duration)) {
    let mut frame = [0; FRAME_BYTES];
    let mut last = Instant::now();
    while let Ok(bytes) = from.recv(&mut frame) {
        let due = Instant::now() + least + jitter.mul_f64(rand::random());
        // Never before the one ahead of it: on one link packets do not overtake one another.
        last = last.max(due);
        if let Err(TrySendError::Disconnected(_)) = queue.try_send((last, frame[..bytes].to_vec()))
        {
            return;
        }
    }
}

fn deliver(waiting: Receiver<Late>, to: &SyncDevice) {
    while let Ok((due, frame)) = waiting.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A device that is down loses it, as a link that is down would.
        let _ = to.send(&frame);
    }
}

fn pass(from: &SyncDevice, to: &SyncDevice) {
    let mut frame = [0; FRAME_BYTES];
    while let Ok(bytes) = from.recv(&mut frame) {
        let _ = to.send(&frame[..bytes]);
    }
}
