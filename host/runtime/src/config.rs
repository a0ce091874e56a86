//! A node's configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use halo_fabric::{Encoding, Loss, Mode, Transport};
use halo_policy::{Limits, Setting};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::arrangement::Arrangement;
use crate::concealer::Concealment;

/// Everything a node can be told. All keys are optional; `docs/halo.toml` shows and explains each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The node's name in its cluster; by default the host's name.
    pub name: Option<String>,
    /// The model's package.
    pub model: Option<PathBuf>,
    /// The ONNX Runtime library.
    pub onnxruntime: Option<PathBuf>,
    /// Threads that compute.
    pub threads: Option<usize>,
    /// Bytes of memory for feed-forward groups; by default half of what is available at the start.
    pub memory: Option<u64>,
    /// A model on this machine alone: the share of every layer's importance that is loaded before the first token.
    pub start: Option<f64>,
    /// Packages that other nodes give.
    pub packages: Packages,
    /// How to reach the other nodes.
    pub network: Network,
    /// How rounds are synchronised, when this node leads.
    pub sync: Sync,
    /// Schedulers and predictors, when this node leads.
    pub policy: Policies,
    /// Faults to inject.
    pub testing: Testing,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// Nodes of one cluster see one another, others not.
    pub cluster: String,
    /// Peer: nodes connect to one another. Client: everything goes through a router.
    pub mode: Mode,
    /// `HOST:PORT` or a zenoh endpoint.
    pub listen: Vec<String>,
    /// `HOST:PORT` or a zenoh endpoint.
    pub connect: Vec<String>,
    /// Find other nodes by multicast.
    pub scouting: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            cluster: "halo".into(),
            mode: Mode::Peer,
            listen: Vec::new(),
            connect: Vec::new(),
            scouting: true,
        }
    }
}

/// `[packages]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Packages {
    /// The folder in which they are kept; by default `models` in the data folder.
    pub folder: Option<PathBuf>,
    /// Bytes that they may take; by default what the disk has.
    pub limit: Option<u64>,
}

/// `[sync]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sync {
    /// Whom a round waits for.
    pub mode: SyncMode,
    /// Hard bound on any wait, in milliseconds: a worker that has not answered by then is suspected to be dead.
    pub bound_ms: u64,
    /// What takes the place of what a round goes on without.
    pub conceal: Concealment,
    /// How activations go to workers.
    pub activation: Encoding,
    /// How partials come back.
    pub partial: Encoding,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            mode: SyncMode::Relaxed,
            bound_ms: 800,
            conceal: Concealment::default(),
            activation: Encoding::Q8,
            partial: Encoding::Q8,
        }
    }
}

impl Sync {
    /// The hard bound as a duration.
    pub fn bound(&self) -> Duration {
        Duration::from_millis(self.bound_ms.max(1))
    }
}

/// Whom a round waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMode {
    /// For everything. The result does not depend on what the network loses.
    Strict,
    /// For what the scheduler says is needed; the rest until its patience ends.
    #[default]
    Relaxed,
    /// For comparison: as strict, but what is missing is asked for again only when TCP would retransmit it.
    LikeTcp,
}

/// `[policy]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policies {
    /// The scheduler to begin with: a name in the store, or `built-in`. By default what the cluster has in force, or
    /// `scheduler-halo`.
    pub scheduler: Option<String>,
    /// The predictor to begin with; by default what the cluster has in force, or `predictor-probe`.
    pub predictor: Option<String>,
    /// Where attention is computed.
    pub attention: AttentionPlace,
    /// A folder of further components.
    pub folder: Option<PathBuf>,
    /// Bounds on every call.
    pub limits: Limits,
    /// Settings of a policy, by its name. In the file, numbers and booleans may be written without quotes.
    #[serde(deserialize_with = "settings")]
    pub settings: BTreeMap<String, BTreeMap<String, String>>,
}

/// Where attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionPlace {
    /// On the leader.
    Leader,
    /// Some heads on workers, where a token is expected sooner so.
    #[default]
    Auto,
    /// As many heads on every node, whatever it takes to reach them.
    Even,
}

impl Policies {
    /// The settings of one policy, as it is given them.
    pub fn settings(&self, name: &str) -> Vec<Setting> {
        let settings = self.settings.get(name).into_iter().flatten();
        settings
            .map(|(key, value)| Setting {
                key: key.clone(),
                value: value.clone(),
            })
            .collect()
    }
}

/// Reads settings, each as the text that the policy is given.
fn settings<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, BTreeMap<String, String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a policy's setting is a string, a number or a boolean"
    )]
    enum Value {
        Text(String),
        Integer(i64),
        Float(f64),
        Boolean(bool),
    }
    let read = BTreeMap::<String, BTreeMap<String, Value>>::deserialize(deserializer)?;
    let text = |value| match value {
        Value::Text(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(boolean) => boolean.to_string(),
    };
    let settings = read.into_iter().map(|(policy, settings)| {
        let settings = settings.into_iter().map(|(key, value)| (key, text(value)));
        (policy, settings.collect())
    });
    Ok(settings.collect())
}

/// `[testing]`: what a bad network would do, done on purpose to every tensor packet that this node receives; what a slower machine
/// would; and how others do it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Testing {
    /// Packets to lose.
    pub loss: Option<Loss>,
    /// Seed of the choice.
    pub seed: u64,
    /// What this node sends tensors over.
    pub transport: Transport,
    /// How many times as long as it could this node takes for what it computes.
    #[serde(deserialize_with = "some_slowdown")]
    pub slowdown: Option<f64>,
    /// Which groups the devices get, when this node leads.
    pub arrangement: Arrangement,
}

/// What is no slowdown.
pub const NO_SLOWDOWN: &str = "a slowdown is a number from 1 to 1000, such as 2 for twice as long";

/// How many times as long something is to take, if it can.
///
/// # Errors
///
/// It is less than 1 or more than 1000.
pub fn slowdown(times: f64) -> Result<f64, String> {
    if (1.0..=1000.0).contains(&times) {
        Ok(times)
    } else {
        Err(NO_SLOWDOWN.into())
    }
}

fn some_slowdown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let times = Option::<f64>::deserialize(deserializer)?;
    times.map(slowdown).transpose().map_err(D::Error::custom)
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {}: {source}; --config or HALO_CONFIG must name a file", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("cannot use the configuration {}: {source}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: toml::de::Error,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, is not TOML, or has keys or values that are not known.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })
    }
}
