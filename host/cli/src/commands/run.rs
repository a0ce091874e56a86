use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use clap::error::ErrorKind;
use halo_engine::{Engine, EngineOptions};
use halo_runtime::{Config, Generator, Node, Plan, Report, Request, SyncMode, Token, cluster};
use owo_colors::OwoColorize;
use serde::{Deserialize, Serialize};

use crate::generation::GenerationOptions;
use crate::model_path;
use crate::options::{
    Global, ModelOption, NetworkOptions, ResourceOptions, SyncOptions, TestingOptions,
    at_least_one, read_text,
};
use crate::output::{self, Output};
use crate::progress;

/// Continue a text, on this machine or at the head of a cluster
///
/// Without --cluster the whole model runs on this machine. With it, this machine leads: it does the attention, keeps the KV
/// cache, and spreads the feed-forward over the workers that it finds. A worker may be lost at any time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo run \"Once upon a time\"
  halo run --cluster home --max-tokens 200 \"Once upon a time\"
  echo \"In the beginning\" | halo run --temperature 0.8 --seed 7
  halo run --stop \"The end\" --json --logprobs 3 \"Once upon a time\"")]
pub(crate) struct Run {
    /// The text to continue; read from standard input if it is missing or `-`
    prompt: Option<String>,

    #[command(flatten)]
    model: ModelOption,

    /// Lead the cluster of this name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// Wait for this many workers before beginning
    #[arg(long, value_name = "N", default_value_t = 1, requires = "cluster", value_parser = at_least_one())]
    workers: usize,

    /// Give up if they are not there after this many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        requires = "cluster"
    )]
    patience: u64,

    #[command(flatten)]
    generation: GenerationOptions,

    /// Scheduler to begin with: a policy's name, or `built-in` [default: the cluster's, or scheduler-halo]
    #[arg(long, value_name = "POLICY")]
    scheduler: Option<String>,

    /// Predictor to begin with [default: the cluster's, or predictor-probe]
    #[arg(long, value_name = "POLICY")]
    predictor: Option<String>,

    #[command(flatten)]
    sync: SyncOptions,

    #[command(flatten)]
    resources: ResourceOptions,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    testing: TestingOptions,
}

/// What `halo run --json` prints, one to a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The cluster is ready.
    Ready {
        /// Each node's share of the neuron groups, the leader's first.
        shares: Vec<(String, f64)>,
    },
    /// A token.
    Token(Token),
    /// The end.
    Done(Box<Report>),
}

impl Run {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        self.network.apply(&mut config, self.cluster.as_deref());
        self.sync.apply(&mut config);
        self.testing.apply(&mut config);
        config.policy.scheduler = self.scheduler.clone().or(config.policy.scheduler);
        config.policy.predictor = self.predictor.clone().or(config.policy.predictor);
        self.resources.apply(&mut config);
        // A worker may run on this machine under the host's name.
        config.name.get_or_insert_with(|| {
            format!("{:.40}-run-{}", cluster::host_name(), std::process::id())
        });
        if self.cluster.is_none() && self.network.is_given() {
            let problem = "options of the network need --cluster NAME; without it the whole model runs on this machine";
            crate::usage_error("run", ErrorKind::MissingRequiredArgument, problem);
        }
        let request = self.request(global)?;
        let package = model_path::open(self.model.model.as_deref(), &config)?;

        let spinner = progress::spinner(output, &format!("loading {}", package.name()));
        let (mut generator, node) = if self.cluster.is_some() {
            let node = Node::start(&config, &package, false).await?;
            let (generator, plan) = node
                .lead(self.workers, Duration::from_secs(self.patience))
                .await?;
            spinner.finish_and_clear();
            ready(&plan, &config, output)?;
            (generator, Some(node))
        } else {
            let generator = tokio::task::spawn_blocking(move || {
                let engine = Engine::start(&EngineOptions {
                    library: config.onnxruntime.clone(),
                    threads: config.threads,
                })?;
                Generator::alone(&engine, &package, config.memory)
            });
            let generator = generator
                .await
                .context("loading the model was cut short")??;
            spinner.finish_and_clear();
            (generator, None)
        };

        let interrupted = Arc::new(AtomicBool::new(false));
        let on_signal = Arc::clone(&interrupted);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                on_signal.store(true, Ordering::Relaxed);
            }
        });
        generator.check(&request)?;
        let out = *output;
        let generation = tokio::task::spawn_blocking(move || {
            // A pipe that closes ends the generation at the first token.
            let _ = out.piece(&request.prompt);
            let mut shown = 0;
            let report = generator.generate(&request, |token| {
                let told = if out.json() {
                    out.line(&Event::Token(token.clone())).is_ok()
                } else {
                    shown += token.text.len();
                    out.piece(&token.text).is_ok()
                };
                if told && !interrupted.load(Ordering::Relaxed) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            let rest = report.as_ref().map_or("", |report| &report.text[shown..]);
            let _ = out.piece(&format!("{rest}\n"));
            report
        });
        let report = generation.await.context("the generation was cut short")??;
        if let Some(node) = node {
            node.close().await;
        }
        if output.json() {
            output.line(&Event::Done(Box::new(report)))?;
        } else {
            output.note(summary(&report).dimmed());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn request(&self, global: &Global) -> Result<Request> {
        let prompt = match self.prompt.as_deref() {
            Some("-") => read_text(&PathBuf::from("-"))?,
            Some(prompt) => prompt.to_owned(),
            None if std::io::stdin().is_terminal() => String::new(),
            None => read_text(&PathBuf::from("-"))?,
        };
        let prompt = if self.prompt.is_none() {
            prompt.trim_end_matches('\n').to_owned()
        } else {
            prompt
        };
        // What is wrong with it is said before a model is loaded or workers are waited for.
        Ok(self.generation.request("run", global, prompt)?)
    }
}

fn ready(plan: &Plan, config: &Config, output: &Output) -> Result<()> {
    let shares: Vec<(String, f64)> = plan
        .devices
        .iter()
        .enumerate()
        .map(|(d, n)| (n.to_string(), plan.share(d)))
        .collect();
    if output.json() {
        return output.line(&Event::Ready { shares });
    }
    let shares: Vec<String> = shares
        .iter()
        .map(|(node, share)| format!("{node} {}", output::percent(*share)))
        .collect();
    let mode = match config.sync.mode {
        SyncMode::Strict => "strict",
        SyncMode::Relaxed => "relaxed",
        SyncMode::LikeTcp => "like TCP",
    };
    output.note(
        format!(
            "{} {mode}; neuron groups: {}",
            config.network.cluster.bold(),
            shares.join(", ")
        )
        .dimmed(),
    );
    Ok(())
}

/// The line under a generated text.
pub(crate) fn summary(report: &Report) -> String {
    let mut line = format!(
        "{} tokens, {:.1} tokens/s after {}",
        report.tokens.len(),
        report.tokens_per_second(),
        output::seconds(report.prefill_seconds)
    );
    if report.reused_tokens > 0 {
        line += &format!(
            "; reused {} of {} prompt tokens",
            report.reused_tokens, report.prompt_tokens
        );
    }
    let counts = &report.counts;
    if counts.rounds > 0 {
        line += &format!(
            "; {} rounds, asked again {} times, concealed {} ({} of {} partials)",
            counts.rounds,
            counts.asked_again,
            output::percent(f64::from(report.concealed)),
            counts.concealed_partials,
            counts.partials
        );
    }
    if counts.new_placements > 0 {
        line += &format!("; {} new placements", counts.new_placements);
    }
    if counts.policy_faults > 0 {
        line += &format!("; {} policy faults", counts.policy_faults);
    }
    line
}
