//! `cargo xtask lab`: a network of hosts on this machine that loses, delays and holds back packets as it is told.

mod cgroup;
mod cluster;
mod condition;
mod delay;
mod host;
mod loading;
mod loss;
mod measure;
mod network;
mod profile;
mod quality;
mod rate;
mod relay;
mod rounds;
mod slower;
mod soak;
mod speedup;
mod swaps;
mod tools;
mod unequal;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::{paths, say};

use cgroup::{Disk, Limit};
use condition::Condition;
use delay::Delay;
use host::Host;
use loss::{Counts, Loss};
use network::{Lab, Name};
use profile::Profile;
use rate::Rate;

pub(crate) use measure::Generation;
pub(crate) use speedup::table::{median, number, percent};
pub(crate) use tools::{provide, ready};

/// Hosts as network namespaces on this machine, joined by links that are as bad as you like.
///
/// Needs root, iproute2 and nftables. Begin with `lab up`; the other commands change one thing at a time, on all hosts or on
/// those named with --host, and what they change stays until it is changed again. `lab down` takes everything away. Hosts are
/// numbered from 1, with addresses 10.77.0.1, 10.77.0.2 and so on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which lab; several can be up at once.
    #[arg(
        long = "lab",
        global = true,
        value_name = "NAME",
        default_value = "lab"
    )]
    name: Name,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a lab of hosts with a core each and perfect links. A lab of that name that is there already is taken down first.
    Up {
        /// How many hosts.
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
        hosts: u8,
        /// Make the links as a kind of network has them.
        #[arg(long, value_enum)]
        profile: Option<Profile>,
    },
    /// Make the links as a kind of network has them.
    Profile {
        #[arg(value_enum)]
        profile: Profile,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Lose each packet that arrives with the same chance.
    Loss {
        /// The chance, such as 0.05; 0 for none.
        #[arg(value_name = "SHARE", value_parser = loss::share)]
        share: f64,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Lose packets that arrive in bursts (Gilbert and Elliott's model).
    Burst {
        /// The share of packets lost in the long run, such as 0.05.
        #[arg(value_name = "SHARE", value_parser = loss::share)]
        share: f64,
        /// The mean number of packets lost in a row.
        #[arg(value_name = "PACKETS")]
        length: f64,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Bound the bits that a host sends and receives in a second.
    Rate {
        /// Mbit/s each way; 0 for no bound.
        #[arg(value_name = "MBIT")]
        megabits: f64,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Delay packets on their way to a host.
    Delay {
        /// Milliseconds; 0 for none.
        #[arg(value_name = "MS")]
        milliseconds: f64,
        /// Up to so many more, evenly spread. Packets keep their order.
        #[arg(long, value_name = "MS", default_value_t = 0.0)]
        jitter: f64,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Keep what runs on a host to some cores, or to a share of their time.
    Cpu {
        /// Cores of this machine, such as 0 or 0-1.
        #[arg(long, value_name = "LIST", required_unless_present = "share")]
        cores: Option<String>,
        /// Time on them, in cores: 0.5 is half a core; 0 for no bound.
        #[arg(long, value_name = "CORES")]
        share: Option<f64>,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Bound the memory of what runs on a host.
    Memory {
        /// Megabytes; 0 for no bound.
        #[arg(value_name = "MB")]
        megabytes: u64,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Bound what a host reads from the disk. What the page cache holds is read as fast as ever.
    Disk {
        /// MB/s; 0 for no bound.
        #[arg(value_name = "MB")]
        megabytes: u64,
        /// The disk on which this lies [default: this repository].
        #[arg(long, value_name = "PATH")]
        of: Option<PathBuf>,
        #[command(flatten)]
        hosts: Hosts,
    },
    /// Say how many packets came to each host since its loss was set, and how many of them were lost.
    Status,
    /// Run a command on a host.
    Run {
        #[arg(long, value_name = "N", default_value_t = 1)]
        host: u8,
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "COMMAND"
        )]
        command: Vec<String>,
    },
    Generate(cluster::Args),
    Speedup(speedup::Args),
    Unequal(unequal::Args),
    Quality(quality::Args),
    Rounds(rounds::Args),
    Loading(loading::Args),
    Swaps(swaps::Args),
    Soak(soak::Args),
    /// Take the lab away, and end what runs on its hosts.
    Down,
    /// Pass on a host's packets, late. Started by `lab delay`.
    #[command(hide = true)]
    Relay(relay::Args),
}

/// Which hosts a command is about.
#[derive(Debug, clap::Args)]
struct Hosts {
    /// Only this host; may be given several times.
    #[arg(long = "host", value_name = "N")]
    only: Vec<u8>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    ready()?;
    let Args { name, command } = args;
    match command {
        Command::Up { hosts, profile } => {
            let lab = Lab::up(&name, hosts)?;
            if let Some(profile) = profile {
                set(lab.hosts(), &profile.conditions())?;
            }
            say::step(
                "Up",
                format_args!("{hosts} hosts: 10.77.0.1 to 10.77.0.{hosts}"),
            );
            Ok(())
        }
        Command::Down => Lab::down(&name),
        Command::Status => {
            for host in Lab::open(&name)?.hosts() {
                let Counts { arrived, lost } = loss::counts(host)?;
                println!(
                    "host {} at {}: {arrived} packets came, {lost} were lost",
                    host.number,
                    host.address()
                );
            }
            Ok(())
        }
        Command::Run { host, command } => {
            let lab = Lab::open(&name)?;
            let (program, arguments) = command.split_first().context("there is no command")?;
            // In place of this process, so that Ctrl-C and the exit code are its own.
            let error = lab.host(host)?.command(program).args(arguments).exec();
            Err(error).context("cannot run `sh`")
        }
        Command::Generate(args) => cluster::generate(&Lab::open(&name)?, &args),
        Command::Speedup(args) => speedup::run(&args, &name),
        Command::Unequal(args) => unequal::run(&args, &name),
        Command::Quality(args) => quality::run(&args, &name),
        Command::Rounds(args) => rounds::run(&args, &name),
        Command::Loading(args) => loading::run(&args, &name),
        Command::Swaps(args) => swaps::run(&args, &name),
        Command::Soak(args) => soak::run(&args, &name),
        Command::Relay(args) => relay::run(&args),
        Command::Profile { profile, hosts } => change(&name, &hosts, &profile.conditions()),
        Command::Loss { share, hosts } => change(&name, &hosts, &[Box::new(Loss::random(share))]),
        Command::Burst {
            share,
            length,
            hosts,
        } => change(&name, &hosts, &[Box::new(Loss::bursty(share, length)?)]),
        Command::Rate { megabits, hosts } => {
            change(&name, &hosts, &[Box::new(Rate::new(megabits)?)])
        }
        Command::Delay {
            milliseconds,
            jitter,
            hosts,
        } => change(
            &name,
            &hosts,
            &[Box::new(Delay::new(milliseconds, jitter)?)],
        ),
        Command::Cpu {
            cores,
            share,
            hosts,
        } => {
            let mut limits: Vec<Box<dyn Condition>> = Vec::new();
            if let Some(cores) = cores {
                limits.push(Box::new(Limit::Cores(cores)));
            }
            if let Some(share) = share {
                limits.push(Box::new(Limit::share(share)?));
            }
            change(&name, &hosts, &limits)
        }
        Command::Memory { megabytes, hosts } => {
            change(&name, &hosts, &[Box::new(Limit::Memory(bytes(megabytes)))])
        }
        Command::Disk {
            megabytes,
            of,
            hosts,
        } => {
            let disk = Disk::of(of.as_deref().unwrap_or(paths::root()))?;
            change(
                &name,
                &hosts,
                &[Box::new(Limit::Disk(disk, bytes(megabytes)))],
            )
        }
    }
}

/// Changes something about some hosts, or about all.
fn change(name: &Name, hosts: &Hosts, conditions: &[Box<dyn Condition>]) -> Result<()> {
    let lab = Lab::open(name)?;
    if hosts.only.is_empty() {
        return set(lab.hosts(), conditions);
    }
    let only = hosts.only.iter().map(|&number| lab.host(number));
    set(only.collect::<Result<Vec<_>>>()?, conditions)
}

fn set<'a>(
    hosts: impl IntoIterator<Item = &'a Host>,
    conditions: &[Box<dyn Condition>],
) -> Result<()> {
    for host in hosts {
        for condition in conditions {
            condition
                .set(host)
                .with_context(|| format!("host {}", host.number))?;
        }
    }
    Ok(())
}

/// A number of bytes, or `None` for 0.
fn bytes(megabytes: u64) -> Option<u64> {
    (megabytes > 0).then(|| megabytes.saturating_mul(1_000_000))
}
