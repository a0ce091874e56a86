//! The program `halo`: LLaMA-family models across unequal machines and lossy networks.
//!
//! All of it but `main`, so that tests can ask what its command line is.

#![forbid(unsafe_code)]

mod commands;
mod conversation;
mod generation;
mod model_path;
mod options;
mod output;
mod progress;
mod session;
mod trace;

pub use halo_fabric::FEW_THREADS as ZENOH_THREADS;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::options::Global;
use crate::output::Output;

/// Distributed LLaMA inference over unequal machines and lossy networks.
///
/// One machine is enough to begin:
///
///   halo run "Once upon a time"
///
/// A cluster is one command on each machine that helps, and one on the machine that leads:
///
///   halo node --cluster home
///   halo run --cluster home "Once upon a time"
///
/// All of them need the same model: a folder given with --model, or a name in ~/.local/share/halo/models.
#[derive(Debug, Parser)]
#[command(
    name = "halo",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    verbatim_doc_comment
)]
struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Run),
    Chat(commands::chat::Chat),
    Node(commands::node::Node),
    Demo(commands::demo::Demo),
    Router(commands::router::Router),
    Status(commands::status::Status),
    Top(commands::top::Top),
    Ping(commands::ping::Ping),
    #[command(subcommand)]
    Policy(commands::policy::Policy),
    #[command(subcommand)]
    Model(commands::model::Model),
    #[command(subcommand)]
    Eval(commands::eval::Eval),
    Bench(commands::bench::Bench),
    Doctor(commands::doctor::Doctor),
    /// Print a shell's completion script
    #[command(after_help = "Examples:
  halo completions bash > ~/.local/share/bash-completion/completions/halo
  halo completions zsh > ~/.zfunc/_halo
  halo completions fish > ~/.config/fish/completions/halo.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command into a folder
    #[command(after_help = "Examples:
  halo manual ~/.local/share/man/man1
  man halo-run")]
    Manual {
        /// The folder, which is made if it is not there
        folder: PathBuf,
    },
}

/// The command line as clap knows it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line says. What is returned is the exit code: 0, or 1 after an error; a wrong command line ends the
/// process with 2.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(&cli.global);
    start_log(&cli.global);
    match run(cli, &output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, output: &Output) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Run(run) => on_runtime(run.execute(global, output)),
        Command::Chat(chat) => on_runtime(chat.execute(global, output)),
        Command::Node(node) => on_runtime(node.execute(global, output)),
        Command::Demo(demo) => on_runtime(demo.execute(global, output)),
        Command::Router(router) => on_runtime(router.execute(global, output)),
        Command::Status(status) => on_runtime(status.execute(global, output)),
        Command::Top(top) => on_runtime(top.execute(global, output)),
        Command::Ping(ping) => on_runtime(ping.execute(global, output)),
        Command::Policy(policy) => on_runtime(policy.execute(global, output)),
        Command::Model(model) => model.execute(global, output),
        Command::Eval(eval) => eval.execute(global, output),
        Command::Bench(bench) => bench.execute(global, output),
        Command::Doctor(doctor) => doctor.execute(global, output),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "halo", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Manual { folder } => {
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(command(), &folder))
                .with_context(|| format!("cannot write to {}", folder.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Ends the process as clap does when it finds a subcommand's arguments wrong.
fn usage_error(subcommand: &str, kind: clap::error::ErrorKind, problem: &str) -> ! {
    let mut command = command();
    command.build();
    let command = match command.find_subcommand_mut(subcommand) {
        Some(found) => found,
        None => &mut command,
    };
    command.error(kind, problem).exit()
}

fn on_runtime<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // zenoh insists on a multi-threaded runtime; two threads serve the control plane of any cluster.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // A generation that was interrupted may still be computing; the process need not wait for it.
    runtime.shutdown_background();
    result
}

fn start_log(global: &Global) {
    let level = match global.verbose {
        // zenoh calls it an error when a packet comes from a node that has just left.
        0 => "warn,ort=error,zenoh=off,halo=warn",
        1 => "info,ort=warn,zenoh=warn",
        2 => "debug,ort=warn,zenoh=warn",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("HALO_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(global.verbose > 1);
    // Those who ask for no more than warnings get them as plain as errors.
    let log = if global.verbose > 0 {
        log.boxed()
    } else {
        log.without_time().boxed()
    };
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(halo_runtime::timeline::layer())
        .init();
}
