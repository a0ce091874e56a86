//! Measuring a cluster: its leader alone, and with one worker more at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use halo_eval::bench::{self, Cluster, Step};
use halo_fabric::NodeId;
use halo_models::{Package, Tokenizer};
use halo_runtime::{AloneOptions, Config, Generator, Node, Planned, Profile, Request, cluster};

use super::process::Wanted;
use crate::options::{Global, LeadOptions, size};
use crate::output::Output;
use crate::{progress, session};

/// Rounds with each worker in which nothing is computed.
const ROUNDS: usize = 1000;

/// How long a placement over other workers may take to be ready. Loading groups from an SD card takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which cluster, and what its leader may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterOptions {
    #[command(flatten)]
    pub(super) lead: LeadOptions,

    /// Memory of this node for feed-forward groups, such as 1.5GB; with little, the others have to help [default: half of what is
    /// available]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
}

impl ClusterOptions {
    /// Measures. `None` if the leader alone cannot be: its process has said why.
    pub(super) async fn measure(
        &self,
        wanted: &Wanted,
        mut config: Config,
        package: &Package,
        global: &Global,
        output: &Output,
    ) -> Result<Option<Cluster>> {
        config.memory = self.memory.or(config.memory);
        let context = package.shape().context;
        let tokens = wanted.tokens.min(context / 2);
        // The first token comes with the prompt, and is one more.
        let prompt = wanted.prompt.min(context - tokens - 1);
        let alone = Wanted {
            context: vec![prompt],
            prompt,
            tokens,
            parallel: Vec::new(),
            repeat: 1,
            no_products: true,
            any_core: true,
        };
        let spinner = progress::spinner(output, "looking for workers");
        let node = Node::start(&config, package, false).await?;
        let (workers, patience) = (self.lead.workers, self.lead.patience());
        let workers = node.workers(workers, patience).await?;
        let mut rounds = Vec::new();
        for worker in &workers {
            spinner.set_message(format!("rounds with {worker}"));
            // What it takes to lead is replaced with each, so this comes before leading.
            let pinged = node.ping(worker, ROUNDS, 1, 1).await?;
            rounds.push((worker.to_string(), pinged));
        }
        spinner.set_message(format!("loading {}", package.name()));
        let (generator, _) = node.lead(workers.len(), patience).await?;
        spinner.finish_and_clear();
        let mut led = Led {
            profiles: profiles(&node).await,
            tokenizer: package.tokenizer()?,
            node,
            generator,
            package,
            prompt,
            tokens,
            prompts: 0,
        };

        let threads = led.node.profile().threads;
        let mut steps: Vec<Step> = (0..=workers.len())
            .map(|count| Step {
                workers: workers[..count].iter().map(NodeId::to_string).collect(),
                ..Step::default()
            })
            .collect();
        let fits_alone = !AloneOptions {
            memory: config.memory,
            ..AloneOptions::default()
        }
        .streams(package);
        let bar = progress::bar(output, "measuring", (wanted.repeat + 1) as u64);
        for turn in 0..=wanted.repeat {
            for (count, step) in steps.iter_mut().enumerate() {
                // The first turn shows everybody how fast the others are, and is not counted.
                let counts = turn > 0;
                if count > 0 {
                    if let Some((report, planned)) = led.generate(&workers[..count]).await?
                        && counts
                    {
                        step.add(&report, &planned);
                    }
                } else if fits_alone && counts {
                    // The process that measures shows how far it is, too.
                    let run = || bar.suspend(|| alone.run(threads, global, package));
                    let Some(run) = tokio::task::block_in_place(run)? else {
                        return Ok(None);
                    };
                    let decode = run.decode.into_iter().next();
                    step.decode
                        .seconds
                        .extend(decode.into_iter().flat_map(|(_, timing)| timing.seconds));
                    step.prefill.seconds.extend(run.prefill.1.seconds);
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let scheduler = led.node.policies().scheduler().active().name;
        led.node.close().await;
        Ok(Some(Cluster {
            name: config.network.cluster.clone(),
            threads,
            scheduler,
            mode: session::mode(&config).into(),
            prompt,
            tokens,
            rounds,
            steps,
        }))
    }
}

/// What the members are that say so.
async fn profiles(node: &Node) -> BTreeMap<NodeId, Profile> {
    let found = cluster::profiles(node.fabric()).await.into_iter();
    found
        .filter_map(|(node, profile)| Some((node, profile.ok()?)))
        .collect()
}

/// A cluster that this node leads.
struct Led<'a> {
    node: Node,
    generator: Generator,
    package: &'a Package,
    tokenizer: Tokenizer,
    profiles: BTreeMap<NodeId, Profile>,
    /// Tokens of each prompt, and after it.
    prompt: usize,
    tokens: usize,
    /// Prompts so far.
    prompts: usize,
}

impl Led<'_> {
    /// Generates with these workers. `None` if they and the leader have no memory for the model.
    async fn generate(
        &mut self,
        workers: &[NodeId],
    ) -> Result<Option<(halo_runtime::Report, Planned)>> {
        if !self.holds_all(workers) {
            return Ok(None);
        }
        self.check(workers, true)?;
        let chosen: BTreeSet<NodeId> = workers.iter().cloned().collect();
        self.node.count_on(chosen, PATIENCE).await?;
        // The first round on a new placement makes links and buffers.
        self.run(8, 2)?;
        let report = self.run(self.prompt, self.tokens + 1)?;
        let placed = |p: &Planned| p.devices.iter().skip(1).map(|d| &d.node).eq(workers);
        let planned = self.node.planned().filter(placed);
        self.check(workers, planned.is_some())?;
        Ok(planned.map(|planned| (report, planned)))
    }

    /// Fails if a worker is no longer there, or if they had not all a part in a `whole` measurement.
    fn check(&self, workers: &[NodeId], whole: bool) -> Result<()> {
        let there = self.node.fabric().members().borrow().clone();
        let gone = workers.iter().find(|worker| !there.contains(worker));
        if gone.is_none() && whole {
            return Ok(());
        }
        let who = gone.map_or_else(|| "a worker".to_owned(), NodeId::to_string);
        bail!(
            "{who} left the cluster, or did not answer in time, while it was measured; its log says why: start it again, and repeat the \
             measurement"
        )
    }

    fn run(&mut self, prompt: usize, tokens: usize) -> Result<halo_runtime::Report> {
        self.prompts += 1;
        let request = Request {
            prompt: bench::prompt(&self.tokenizer, prompt, self.prompts)?,
            max_tokens: tokens,
            ignore_eos: true,
            ..Request::default()
        };
        let generate = || (self.generator).generate(&request, |_| ControlFlow::Continue(()));
        Ok(tokio::task::block_in_place(generate)?)
    }

    /// Whether the model's groups fit the memory of the leader and these workers.
    fn holds_all(&self, workers: &[NodeId]) -> bool {
        let workers = workers
            .iter()
            .filter_map(|worker| self.profiles.get(worker));
        let nodes = std::iter::once(self.node.profile()).chain(workers);
        let fit = nodes.map(|profile| profile.memory / self.package.group_bytes());
        let all = self.package.shape().layers * self.package.groups();
        fit.fold(0, u64::saturating_add) >= all as u64
    }
}
