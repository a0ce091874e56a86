//! What a model is measured under: by itself, on a cluster that is imitated, or on a real one.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use halo_engine::{Backbone, FeedForwardSource};
use halo_eval::{
    Clustered, EvalError, Progress, Reader, Simulated, SimulatedOptions, Synchronisation, Tally,
    unhurried,
};
use halo_fabric::{Faults, Loss};
use halo_models::Package;
use halo_runtime::{Arrangement, AttentionPlace, Config, Node, Policies, SyncMode, cluster};
use serde::Serialize;

use super::engine;
use crate::model_path;
use crate::options::{Conceal, Global, ModelOption, NetworkOptions, at_least_one, share};
use crate::output::{self, Output};
use crate::progress;

/// Which model, and under which conditions.
#[derive(Debug, Args)]
pub(super) struct Conditions {
    #[command(flatten)]
    model: ModelOption,

    #[command(flatten)]
    loss: LossArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Loss")]
struct LossArgs {
    /// Lose this share of packets, such as 0.05; 0.05:6 loses it in bursts of 6 packets on average
    ///
    /// Imitates a cluster on this machine whose links lose as much each way; of a real cluster, it is what is lost on arrival here.
    #[arg(long, value_name = "SHARE[:PACKETS]")]
    loss: Option<LossModel>,

    /// Only the last worker's link loses anything
    #[arg(long, requires = "loss", conflicts_with = "cluster")]
    one_bad_node: bool,

    /// Workers beside the leader; a real cluster is waited for until it has as many
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one())]
    workers: usize,

    /// Which groups each node computes
    #[arg(long, value_enum, default_value = "aware")]
    placement: Placement,

    /// Whom a round waits for
    #[arg(long, value_enum, default_value = "relaxed")]
    sync: Sync,

    /// What takes the place of what a round goes on without
    #[arg(long, value_enum, default_value = "zero")]
    conceal: Conceal,

    /// Measure so often, each time losing other packets, and say within what the mean is with 95 % confidence
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    seeds: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
struct ClusterArgs {
    /// Measure on the cluster of this name, one token after the other as in a generation
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// Scheduler: a policy's name, or `built-in` [default: scheduler-halo]
    #[arg(long, value_name = "POLICY")]
    scheduler: Option<String>,

    /// Predictor [default: predictor-probe]
    #[arg(long, value_name = "POLICY")]
    predictor: Option<String>,

    /// Memory of this node for feed-forward groups, such as 1.5GB; with little, the others have to help
    #[arg(long, value_name = "SIZE", value_parser = crate::options::size, requires = "cluster")]
    memory: Option<u64>,

    #[command(flatten)]
    network: NetworkOptions,
}

/// A share of packets, and how many are lost in a row.
#[derive(Debug, Clone, Copy)]
struct LossModel(Loss);

impl FromStr for LossModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let loss = match text.split_once(':') {
            None => Loss::Random { rate: share(text)? },
            Some((rate, burst)) => Loss::Bursty {
                rate: share(rate)?,
                burst: burst.parse().map_err(|_| {
                    format!("`{burst}` is no mean number of packets lost in a row, such as 6")
                })?,
            },
        };
        let faults = Faults { loss, seed: 0 };
        faults.check().map_err(|e| e.to_string())?;
        Ok(Self(loss))
    }
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Placement {
    /// Those that the scheduler says, which knows how much they matter
    Aware,
    /// As many, but any
    Blind,
    /// As many, but those that matter most where most is lost
    Worst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Sync {
    /// For everything
    Strict,
    /// For what the scheduler says is needed, and for the rest a little
    Relaxed,
    /// For nobody; nothing is asked for again. Only imitated
    DropLate,
}

/// A choice as it is written on the command line.
fn name(choice: impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Placement {
    fn arrangement(self) -> Arrangement {
        match self {
            Self::Aware => Arrangement::Scheduled,
            Self::Blind => Arrangement::Blind,
            Self::Worst => Arrangement::Worst,
        }
    }
}

/// A model that reads, whoever computes its feed-forward.
pub(super) type AnyReader<'a> = Reader<'a, dyn FeedForwardSource<Error = EvalError> + 'a>;

/// What was found of a model.
#[derive(Debug)]
pub(super) struct Found<T> {
    /// On one machine, nothing lost.
    pub(super) whole: T,
    /// Under the conditions; none if there were no conditions.
    pub(super) runs: Vec<Run<T>>,
}

/// What was found of it once, and what happened meanwhile.
#[derive(Debug)]
pub(super) struct Run<T> {
    pub(super) found: T,
    pub(super) seconds: f64,
    pub(super) tally: Tally,
}

impl Conditions {
    /// Measures the whole model, and then under the conditions, as often as there are seeds.
    pub(super) fn measure<T: Send>(
        &self,
        global: &Global,
        output: &Output,
        mut each: impl FnMut(&mut AnyReader<'_>, &mut dyn FnMut(Progress)) -> Result<T> + Send,
    ) -> Result<Found<T>> {
        let mut config = global.config()?;
        self.apply(&mut config)?;
        let package = model_path::open(self.model.model.as_deref(), &config)?;
        let mut settings = config.policy.clone();
        settings.limits = unhurried(&settings.limits);
        let policies = Policies::new(&settings, &package)?;
        let mut each = |what: &str, reader: &mut AnyReader<'_>| {
            let bar = progress::bar(output, what, 0);
            let found = each(reader, &mut |p| {
                bar.set_length(p.total as u64);
                bar.set_position(p.done as u64);
            });
            bar.finish_and_clear();
            found
        };
        let (whole, mut runs) = self.imitate(&config, &package, &policies, &mut each)?;
        if let Some(name) = &self.cluster.cluster {
            let lead = self.lead(name, &config, &package, &mut each);
            runs = crate::on_runtime(lead)?;
        }
        Ok(Found { whole, runs })
    }

    /// The configuration of a leader.
    fn apply(&self, config: &mut Config) -> Result<()> {
        let LossArgs {
            loss,
            sync,
            conceal,
            placement,
            ..
        } = &self.loss;
        let given = &self.cluster;
        config.policy.scheduler = given.scheduler.clone().or(config.policy.scheduler.take());
        config.policy.predictor = given.predictor.clone().or(config.policy.predictor.take());
        // What is read here is read with this node's whole attention.
        config.policy.attention = AttentionPlace::Leader;
        config.memory = given.memory.or(config.memory);
        given.network.apply(config, given.cluster.as_deref());
        config.name.get_or_insert_with(|| {
            format!("{:.40}-eval-{}", cluster::host_name(), std::process::id())
        });
        config.sync.conceal = (*conceal).into();
        config.testing.arrangement = placement.arrangement();
        if let Some(LossModel(loss)) = loss {
            config.testing.loss = Some(*loss);
        }
        config.sync.mode = match sync {
            Sync::Strict => SyncMode::Strict,
            Sync::Relaxed => SyncMode::Relaxed,
            Sync::DropLate if given.cluster.is_none() => SyncMode::Relaxed,
            Sync::DropLate => {
                bail!("no real cluster drops what is late; leave --cluster out, and it is imitated")
            }
        };
        Ok(())
    }

    /// The whole model on this machine, and without a real cluster the conditions too.
    fn imitate<T>(
        &self,
        config: &Config,
        package: &Package,
        policies: &Policies,
        each: &mut impl FnMut(&str, &mut AnyReader<'_>) -> Result<T>,
    ) -> Result<(T, Vec<Run<T>>)> {
        let engine = engine(config)?;
        let mut backbone = Backbone::load(&engine, package)?;
        let tokenizer = package.tokenizer()?;
        let mut measure = |what: &str, options: &SimulatedOptions| {
            let mut simulated = Simulated::load(&engine, package, policies, options)?;
            let began = Instant::now();
            let found = each(
                what,
                &mut Reader {
                    backbone: &mut backbone,
                    feed_forward: &mut simulated,
                    tokenizer: &tokenizer,
                    rows: usize::MAX,
                },
            )?;
            anyhow::Ok(Run {
                found,
                seconds: began.elapsed().as_secs_f64(),
                tally: simulated.tally(),
            })
        };
        let args = &self.loss;
        let mut options = SimulatedOptions {
            workers: 0,
            loss: args.loss.map_or(Loss::Random { rate: 0.0 }, |loss| loss.0),
            one_bad_node: args.one_bad_node,
            arrangement: args.placement.arrangement(),
            synchronisation: match args.sync {
                Sync::Strict => Synchronisation::Strict,
                Sync::Relaxed => Synchronisation::Relaxed,
                Sync::DropLate => Synchronisation::DropLate,
            },
            conceal: args.conceal.into(),
            seed: 0,
        };
        let whole = measure("the whole model", &options)?.found;
        let mut runs = Vec::new();
        if args.loss.is_some() && self.cluster.cluster.is_none() {
            options.workers = args.workers;
            for seed in 0..args.seeds {
                options.seed = seed as u64;
                runs.push(measure(&format!("seed {seed}"), &options)?);
            }
        }
        Ok((whole, runs))
    }

    /// The conditions on a real cluster.
    async fn lead<T>(
        &self,
        name: &str,
        config: &Config,
        package: &Package,
        each: &mut impl FnMut(&str, &mut AnyReader<'_>) -> Result<T>,
    ) -> Result<Vec<Run<T>>> {
        /// How long to look for the workers.
        const PATIENCE: Duration = Duration::from_secs(20);
        let tokenizer = package.tokenizer()?;
        let node = Node::start(config, package, false).await?;
        let (mut generator, _) = node.lead(self.loss.workers, PATIENCE).await?;
        let (backbone, source) = generator.parts();
        let mut run = |number: usize| {
            let mut clustered = Clustered::new(source);
            let began = Instant::now();
            let found = each(
                &format!("{name}, run {number}"),
                &mut Reader {
                    backbone: &mut *backbone,
                    feed_forward: &mut clustered,
                    tokenizer: &tokenizer,
                    rows: 1,
                },
            )?;
            Ok(Run {
                found,
                seconds: began.elapsed().as_secs_f64(),
                tally: clustered.tally(),
            })
        };
        let seeds = 1..=self.loss.seeds;
        let runs = tokio::task::block_in_place(|| seeds.map(&mut run).collect::<Result<_>>())?;
        node.close().await;
        Ok(runs)
    }

    /// What was measured under, and what happened, in words.
    pub(super) fn described<T>(&self, found: &Found<T>) -> String {
        let args = &self.loss;
        let loss = match args.loss {
            Some(LossModel(Loss::Random { rate })) => format!(", {} lost", output::percent(rate)),
            Some(LossModel(Loss::Bursty { rate, burst })) => {
                format!(", {} lost in bursts of {burst}", output::percent(rate))
            }
            None => String::new(),
        };
        let tallies = || found.runs.iter().map(|run| &run.tally);
        let mean = |of: &dyn Fn(&Tally) -> f64| {
            tallies().map(of).sum::<f64>() / found.runs.len().max(1) as f64
        };
        let asked = mean(&|t| t.asked_again as f64 / t.rounds.max(1) as f64);
        format!(
            "{}{} workers{loss}{}, placement {}, {}: concealed {}, asked again {asked:.2} times a round",
            self.cluster
                .cluster
                .as_ref()
                .map_or_else(String::new, |name| format!("{name}, ")),
            args.workers,
            if args.one_bad_node {
                " by the last"
            } else {
                ""
            },
            name(args.placement),
            name(args.sync),
            output::percent(mean(&|t| t.concealed)),
        )
    }

    /// The same for programs.
    pub(super) fn json<T>(&self, found: &Found<T>) -> serde_json::Value {
        let args = &self.loss;
        let tallies: Vec<Tally> = found.runs.iter().map(|run| run.tally).collect();
        serde_json::json!({
            "cluster": self.cluster.cluster,
            "loss": args.loss.map(|loss| loss.0),
            "one_bad_node": args.one_bad_node,
            "workers": args.workers,
            "placement": args.placement,
            "sync": args.sync,
            "tallies": tallies,
        })
    }

    /// Whether time means anything: not where a cluster is imitated.
    pub(super) fn is_real(&self) -> bool {
        self.cluster.cluster.is_some()
    }
}
