//! A model made ready to generate, alone or at the head of a cluster, and what is told of its generations.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::Args;
use halo_engine::{Engine, EngineOptions, packed_backbone_bytes};
use halo_fabric::{NodeId, Transport};
use halo_models::Package;
use halo_runtime::{
    AloneOptions, Config, Finish, Generator, Node, Plan, Report, Request, SyncMode, Token, cluster,
    memory, timeline,
};
use owo_colors::OwoColorize;
use serde::{Deserialize, Serialize};

use crate::model_path;
use crate::options::{Global, LeadOptions, ModelOption, ResourceOptions, StartOption};
use crate::output::{self, Output};
use crate::progress;
use crate::trace::TraceFile;

/// Which model, where its parts are computed, and how.
#[derive(Debug, Args)]
pub(crate) struct SessionOptions {
    #[command(flatten)]
    model: ModelOption,

    #[command(flatten)]
    resources: ResourceOptions,

    #[command(flatten)]
    start: StartOption,

    #[command(flatten)]
    lead: LeadOptions,
}

/// What `--json` prints of generations, one to a line.
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

impl SessionOptions {
    /// The configuration with what was given on the command line. Ends the process as clap does if that contradicts itself.
    pub(crate) fn config(&self, command: &str, global: &Global) -> Result<Config> {
        let mut config = global.config()?;
        self.lead.apply(command, &mut config);
        self.resources.apply(&mut config);
        config.start = self.start.start.or(config.start);
        Ok(config)
    }

    /// The model that was asked for.
    pub(crate) fn package(&self, config: &Config) -> Result<Package> {
        model_path::open(self.model.model.as_deref(), config)
    }

    /// Checks, before anything is loaded, that a request can be met.
    pub(crate) fn check(
        &self,
        config: &Config,
        package: &Package,
        request: &Request,
    ) -> Result<()> {
        let weights = match self.lead.cluster {
            // How many of the groups will be this machine's is not known yet.
            Some(_) => packed_backbone_bytes(package),
            None => alone(config).weights(package),
        };
        Ok(memory::check(package, request, weights)?)
    }

    /// Loads the model, and finds the workers if there are to be any.
    pub(crate) async fn start(
        &self,
        config: Config,
        package: Package,
        output: &Output,
    ) -> Result<Session> {
        let spinner = progress::spinner(output, &format!("loading {}", package.name()));
        let (generator, node) = if self.lead.cluster.is_some() {
            let node = Node::start(&config, &package, false).await?;
            let (generator, plan) = node.lead(self.lead.workers, self.lead.patience()).await?;
            spinner.finish_and_clear();
            ready(&plan, &config, output)?;
            (generator, Some(node))
        } else {
            let generator = tokio::task::spawn_blocking(move || {
                let options = alone(&config);
                let engine = Engine::start(&EngineOptions {
                    library: config.onnxruntime.clone(),
                    threads: config.threads,
                    // Threads that spin would be in the way of those that read and compute what is streamed.
                    spin: !options.streams(&package),
                    slowdown: config.testing.slowdown,
                })?;
                Generator::alone(&engine, &package, options)
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
            while tokio::signal::ctrl_c().await.is_ok() {
                on_signal.store(true, Ordering::Relaxed);
            }
        });
        Ok(Session {
            generator,
            node,
            interrupted,
            output: *output,
        })
    }
}

/// A model that is ready to generate. Control-C ends a generation, not the process.
pub(crate) struct Session {
    generator: Generator,
    node: Option<Node>,
    interrupted: Arc<AtomicBool>,
    output: Output,
}

impl Session {
    /// Tokens of a request's prompt, if it can be met.
    pub(crate) fn check(&self, request: &Request) -> Result<usize> {
        Ok(self.generator.check(request)?)
    }

    /// Generates, printing tokens as they come.
    pub(crate) fn generate(&mut self, request: &Request) -> Result<Report> {
        let Self {
            generator,
            interrupted,
            output,
            ..
        } = self;
        interrupted.store(false, Ordering::Relaxed);
        let mut shown = 0;
        let each = |token: &Token| {
            // A pipe that closes ends the generation at the first token.
            let told = if output.json() {
                output.line(&Event::Token(token.clone())).is_ok()
            } else {
                shown += token.text.len();
                output.piece(&token.text).is_ok()
            };
            if told && !interrupted.load(Ordering::Relaxed) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let report = tokio::task::block_in_place(|| generator.generate(request, each));
        let rest = report.as_ref().map_or("", |report| &report.text[shown..]);
        let _ = output.piece(&format!("{rest}\n"));
        Ok(report?)
    }

    /// Begins to record what each node does.
    pub(crate) async fn record(&self) {
        let Some(node) = &self.node else {
            return timeline::begin_here();
        };
        for (worker, why) in node.record().await {
            tracing::warn!("{worker} is not in the trace: {why}");
        }
    }

    /// Ends recording, writes what was recorded, and says what that is.
    pub(crate) async fn trace(&self, file: TraceFile) -> Result<String> {
        let (leader, timelines) = match &self.node {
            Some(node) => (node.fabric().node().clone(), node.recording().await),
            None => {
                let own: NodeId = cluster::host_name().parse()?;
                (own.clone(), [(own, timeline::end_here())].into())
            }
        };
        file.write(&leader, &timelines)
    }

    /// Leaves the cluster, if there is one.
    pub(crate) async fn close(self) {
        if let Some(node) = self.node {
            node.close().await;
        }
    }
}

fn alone(config: &Config) -> AloneOptions {
    AloneOptions {
        memory: config.memory,
        start: config.start.unwrap_or(1.0),
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
    output.note(
        format!(
            "{} {}; neuron groups: {}",
            config.network.cluster.bold(),
            mode(config),
            shares.join(", ")
        )
        .dimmed(),
    );
    Ok(())
}

/// How rounds are synchronised, in a word.
pub(crate) fn mode(config: &Config) -> &'static str {
    match (config.testing.transport, config.sync.mode) {
        (Transport::Tcp, _) => "over TCP",
        (Transport::Udp, SyncMode::Strict) => "strict",
        (Transport::Udp, SyncMode::Relaxed) => "relaxed",
        (Transport::Udp, SyncMode::LikeTcp) => "like TCP",
    }
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
            "; {} rounds, made up for {} lost packets, asked again {} times, concealed {} ({} of {} partials)",
            counts.rounds,
            counts.made_up,
            counts.asked_again,
            output::percent(f64::from(report.concealed)),
            counts.concealed_partials,
            counts.partials
        );
    }
    if counts.holes > 0 {
        line += &format!(
            "; {} holes in the attention, {} filled later",
            counts.holes, counts.holes_filled
        );
    }
    if counts.rounds == 0 && report.concealed > 0.0 {
        let concealed = output::percent(f64::from(report.concealed));
        line += &format!("; {concealed} was not loaded yet");
    }
    if counts.weights_read > 0 {
        line += &format!(
            "; read {} of weights, waited {} for them",
            output::bytes(counts.weights_read),
            output::seconds(counts.disk_wait_ms as f64 / 1e3)
        );
    }
    if counts.new_placements > 0 {
        line += &format!("; {} new placements", counts.new_placements);
    }
    if counts.policy_faults > 0 {
        line += &format!("; {} policy faults", counts.policy_faults);
    }
    if report.finish == Finish::Context {
        line += "; the context is full";
    }
    line
}
