mod frame;
mod look;
mod watched;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use halo_fabric::Fabric;
use ratatui::Terminal;
use ratatui::backend::TermionBackend;
use ratatui::termion::event::Key;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::IntoRawMode;
use ratatui::termion::screen::IntoAlternateScreen;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::options::{Global, ReachOptions};
use crate::output::Output;

use super::node::wait_for_signal;
use super::status::observe;
use frame::Frame;
use look::Look;
use watched::Watched;

/// Watch a cluster at work
///
/// What `halo status` and `halo status --plan` show, again and again: each node's state, speed, memory and temperature; and of
/// each node that leads the tokens that it generates in a second, and who computes what share of them over which link; and the
/// policies in force. A node that leaves is shown as gone for a minute.
///
/// In a terminal `q` ends it and `?` explains the columns. Where there is none it prints one look as text; programs better read
/// `halo status --json`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo top --cluster home
  halo top --cluster home --once")]
pub(crate) struct Top {
    /// The cluster's name [default: halo]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,

    /// Print one look as text, of as many seconds as --interval says
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    network: ReachOptions,
}

impl Top {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        if output.json() {
            bail!("`halo top` is for people; programs read `halo status --json`");
        }
        let mut config = global.config()?;
        self.network.apply(&mut config, self.cluster.as_deref());
        let interval = Duration::from_secs(self.interval);
        let fabric = observe(&config).await?;
        let cluster = &config.network.cluster;
        let done = if self.once || !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            print(&fabric, cluster, interval).await;
            Ok(())
        } else {
            live(&fabric, cluster, interval).await
        };
        fabric.close().await;
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Prints what is seen in one interval.
async fn print(fabric: &Fabric, cluster: &str, interval: Duration) {
    let mut watched = Watched::default();
    // Speeds are differences between two looks.
    watched.update(Look::at(fabric).await, Instant::now());
    tokio::time::sleep(interval).await;
    let view = watched.update(Look::at(fabric).await, Instant::now());
    anstream::print!("{}", Frame::new(cluster, &view).text());
}

/// Shows the cluster in the terminal until somebody has seen enough.
async fn live(fabric: &Fabric, cluster: &str, interval: Duration) -> Result<()> {
    let mut looks = looks(fabric.clone(), interval);
    let mut keys = keys();
    // Dropped, they give the terminal back as it was.
    let screen = io::stdout()
        .into_raw_mode()
        .and_then(IntoAlternateScreen::into_alternate_screen);
    let screen = screen.context("cannot draw in this terminal; --once prints instead")?;
    let mut terminal = Terminal::new(TermionBackend::new(screen))?;
    let mut watched = Watched::default();
    let mut view = watched.update(Look::default(), Instant::now());
    let mut help = false;
    loop {
        terminal.draw(|screen| {
            let frame = Frame::new(cluster, &view).with_keys();
            frame.draw(help, screen.area(), screen.buffer_mut());
        })?;
        tokio::select! {
            Some(look) = looks.recv() => view = watched.update(look, Instant::now()),
            key = keys.recv() => match key {
                Some(Key::Char('?')) => help = !help,
                Some(Key::Char('q') | Key::Esc | Key::Ctrl('c')) | None => return Ok(()),
                Some(_) => {}
            },
            signal = wait_for_signal() => return signal,
        }
    }
}

/// Looks at the cluster again and again. A silent node keeps a look waiting, and nothing else.
fn looks(fabric: Fabric, interval: Duration) -> mpsc::Receiver<Look> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if sender.send(Look::at(&fabric).await).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// What is typed. The thread waits for keys as long as the process lives.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(8);
    thread::spawn(move || {
        for key in io::stdin().keys().map_while(Result::ok) {
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}
