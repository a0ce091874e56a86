use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use halo_runtime::{Pinged, cluster};
use owo_colors::OwoColorize;

use crate::model_path;
use crate::options::{
    Global, ModelOption, NetworkOptions, SyncOptions, TestingOptions, at_least_one,
};
use crate::output::{self, Output};

/// Measure rounds with each worker of a cluster in which nothing is computed
///
/// A round is what every layer of every token takes: the activation goes to the worker in packets, and a partial comes back.
/// With nothing computed, its time is what the network costs, and HALO on top of it. Times are in milliseconds; `zenoh` is the
/// time of one packet each way without the threads that compute, and loss is the share of packets lost there and back.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo ping --cluster home
  halo ping --cluster home --wire q4 --rounds 5000")]
pub(crate) struct Ping {
    /// The cluster's name [default: halo]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// Wait for this many workers before beginning
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    workers: usize,

    /// Give up if they are not there after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    patience: u64,

    /// Rounds with each worker
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one())]
    rounds: usize,

    /// Rows of each round: one while decoding, more in a prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    rows: usize,

    /// Send each packet so often, there and back
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<u8>::new().range(1..=4))]
    copies: u8,

    #[command(flatten)]
    model: ModelOption,

    #[command(flatten)]
    sync: SyncOptions,

    #[command(flatten)]
    network: NetworkOptions,

    #[command(flatten)]
    testing: TestingOptions,
}

impl Ping {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let mut config = global.config()?;
        self.network.apply(&mut config, self.cluster.as_deref());
        self.testing.apply(&mut config);
        self.sync.apply(&mut config);
        // A worker may run on this machine under the host's name.
        config.name.get_or_insert_with(|| {
            format!("{:.40}-ping-{}", cluster::host_name(), std::process::id())
        });
        let package = model_path::open(self.model.model.as_deref(), &config)?;
        let node = halo_runtime::Node::start(&config, &package, false).await?;
        let patience = Duration::from_secs(self.patience);
        let mut pinged = Vec::new();
        for worker in node.workers(self.workers, patience).await? {
            let rounds = node
                .ping(&worker, self.rounds, self.rows, self.copies)
                .await?;
            pinged.push((worker.to_string(), rounds));
        }
        node.close().await;
        if output.json() {
            let pinged: Vec<_> = pinged
                .iter()
                .map(|(node, rounds)| serde_json::json!({ "node": node, "rounds": rounds }))
                .collect();
            output.line(&pinged)?;
        } else {
            let table = table(&pinged);
            let (head, body) = table.split_once('\n').unwrap_or((&table, ""));
            anstream::println!("{}", head.dimmed());
            anstream::print!("{body}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The same for people.
pub(super) fn table(pinged: &[(String, Pinged)]) -> String {
    let head = [
        "node", "mean", "median", "95 %", "99 %", "longest", "zenoh", "asked", "loss",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    for (node, rounds) in pinged {
        let ms = |us: f64| format!("{:.3}", us / 1e3);
        let share = |share: Option<f64>| share.map_or("?".into(), output::percent);
        rows.push(vec![
            node.clone(),
            ms(rounds.mean_us),
            ms(rounds.median_us),
            ms(rounds.p95_us),
            ms(rounds.p99_us),
            ms(rounds.longest_us),
            rounds.round_trip_us.map_or("?".into(), ms),
            rounds.asked_again.to_string(),
            format!("{} / {}", share(rounds.loss_to), share(rounds.loss_from)),
        ]);
    }
    output::table(&rows)
}
