use std::time::Duration;

use clap::Args;
use clap::error::ErrorKind;
use halo_runtime::{Config, cluster};

use super::{Attention, NetworkOptions, SyncOptions, TestingOptions, at_least_one};

/// Which cluster to lead, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct LeadOptions {
    /// Lead the cluster of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// Wait for this many workers before beginning
    #[arg(long, value_name = "N", default_value_t = 1, requires = "cluster", value_parser = at_least_one())]
    pub(crate) workers: usize,

    /// Give up if they are not there after this many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        requires = "cluster"
    )]
    patience: u64,

    /// Scheduler to begin with: a policy's name, or `built-in` [default: the cluster's, or scheduler-halo]
    #[arg(long, value_name = "POLICY")]
    scheduler: Option<String>,

    /// Predictor to begin with [default: the cluster's, or predictor-probe]
    #[arg(long, value_name = "POLICY")]
    predictor: Option<String>,

    /// Where attention is computed [default: auto]
    #[arg(long, value_enum)]
    attention: Option<Attention>,

    #[command(flatten)]
    sync: SyncOptions,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    testing: TestingOptions,
}

impl LeadOptions {
    /// Writes what was given into the configuration. Ends the process as clap does if that contradicts itself.
    pub(crate) fn apply(&self, command: &str, config: &mut Config) {
        self.network.apply(config, self.cluster.as_deref());
        self.sync.apply(config);
        self.testing.apply(config);
        let policy = &mut config.policy;
        policy.scheduler = self.scheduler.clone().or(policy.scheduler.take());
        policy.predictor = self.predictor.clone().or(policy.predictor.take());
        if let Some(attention) = self.attention {
            policy.attention = attention.into();
        }
        // A worker may run on this machine under the host's name.
        config.name.get_or_insert_with(|| {
            format!(
                "{:.40}-{command}-{}",
                cluster::host_name(),
                std::process::id()
            )
        });
        if self.cluster.is_none() && self.network.is_given() {
            let problem = "options of the network need --cluster NAME; without it the whole model runs on this machine";
            crate::usage_error(command, ErrorKind::MissingRequiredArgument, problem);
        }
    }

    /// How long to look for the workers.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}
