//! Options that several commands have, and how they and the configuration file come together.

mod lead;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use halo_fabric::{self as fabric, Encoding, Loss, Mode};
use halo_runtime::{AttentionPlace, Concealment, Config, SyncMode};

pub(crate) use lead::LeadOptions;

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file [default: ~/.config/halo/halo.toml or /etc/halo/halo.toml, if there]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "HALO_CONFIG",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,

    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say more of what happens; twice for still more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Global {
    /// The configuration: the file that was named, else the first that exists, else the defaults.
    pub(crate) fn config(&self) -> Result<Config> {
        if let Some(path) = &self.config {
            return Ok(Config::read(path)?);
        }
        let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
        let usual = [
            home.map(|h| h.join("halo/halo.toml")),
            Some(PathBuf::from("/etc/halo/halo.toml")),
        ];
        match usual.into_iter().flatten().find(|p| p.is_file()) {
            Some(path) => Ok(Config::read(&path)?),
            None => Ok(Config::default()),
        }
    }
}

/// Which model.
#[derive(Debug, Args)]
pub(crate) struct ModelOption {
    /// Model package: a folder, or the name of one in ~/.local/share/halo/models [default: tiny]
    #[arg(
        long,
        short,
        value_name = "MODEL",
        env = "HALO_MODEL",
        hide_env_values = true
    )]
    pub(crate) model: Option<PathBuf>,
}

/// What a node may take of its machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct ResourceOptions {
    /// Threads that compute [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) threads: Option<usize>,

    /// Memory for feed-forward groups, such as 1.5GB [default: half of what is available]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
}

/// Where packages from other nodes are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct CacheOptions {
    /// Keep packages that other nodes give in this folder [default: ~/.local/share/halo/models]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache: Option<PathBuf>,

    /// They may take this much, such as 8GB [default: what the disk has]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) cache_limit: Option<u64>,
}

impl CacheOptions {
    pub(crate) fn apply(&self, config: &mut Config) {
        let packages = &mut config.packages;
        packages.folder = self.cache.clone().or(packages.folder.take());
        packages.limit = self.cache_limit.or(packages.limit);
    }
}

/// When a generation on this machine alone begins.
#[derive(Debug, Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct StartOption {
    /// Begin when this share of every layer's importance is loaded, and load the rest meanwhile [default: 1]
    #[arg(long, value_name = "SHARE", value_parser = share_or_all)]
    pub(crate) start: Option<f64>,
}

impl ResourceOptions {
    pub(crate) fn apply(&self, config: &mut Config) {
        config.threads = self.threads.or(config.threads);
        config.memory = self.memory.or(config.memory);
    }
}

/// How a node takes part in a cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkOptions {
    /// This node's name in the cluster [default: after the host's]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Listen here, on TCP and UDP; may be given several times [default: all interfaces, any port]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Vec<String>,

    #[command(flatten)]
    pub(crate) reach: ReachOptions,
}

/// How to reach a cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct ReachOptions {
    /// Connect to the node or router there; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) connect: Vec<String>,

    /// Do not look for other nodes by multicast
    #[arg(long)]
    pub(crate) no_scouting: bool,

    /// Go through a zenoh router (give it with --connect) instead of to the nodes themselves
    #[arg(long)]
    pub(crate) client: bool,
}

impl NetworkOptions {
    /// Whether any of them was given.
    pub(crate) fn is_given(&self) -> bool {
        let reach = &self.reach;
        self.name.is_some()
            || !self.listen.is_empty()
            || !reach.connect.is_empty()
            || reach.no_scouting
            || reach.client
    }

    /// Writes what was given into the configuration.
    pub(crate) fn apply(&self, config: &mut Config, cluster: Option<&str>) {
        if self.name.is_some() {
            config.name.clone_from(&self.name);
        }
        if !self.listen.is_empty() {
            config.network.listen.clone_from(&self.listen);
        }
        self.reach.apply(config, cluster);
    }
}

impl ReachOptions {
    /// Writes what was given into the configuration.
    pub(crate) fn apply(&self, config: &mut Config, cluster: Option<&str>) {
        let network = &mut config.network;
        if let Some(cluster) = cluster {
            network.cluster = cluster.to_owned();
        }
        if !self.connect.is_empty() {
            network.connect.clone_from(&self.connect);
        }
        network.scouting &= !self.no_scouting;
        if self.client {
            network.mode = Mode::Client;
        }
    }
}

/// What a bad network does, what a slow machine does, and how others would send tensors.
#[derive(Debug, Args)]
#[command(next_help_heading = "Testing")]
pub(crate) struct TestingOptions {
    /// Lose this share of all tensor packets that arrive here, such as 0.1
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) loss: Option<f64>,

    /// Seed of the choice which packets to lose
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) loss_seed: u64,

    /// What to send tensors over; all nodes alike
    #[arg(long, value_enum)]
    pub(crate) transport: Option<Transport>,

    /// Take this many times as long for what is computed here, such as 2
    #[arg(long, value_name = "TIMES", value_parser = times)]
    pub(crate) slowdown: Option<f64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Transport {
    /// Datagrams: what is lost holds up nothing else
    Udp,
    /// For comparison: TCP, and wait for everything
    Tcp,
}

impl TestingOptions {
    pub(crate) fn apply(&self, config: &mut Config) {
        if let Some(rate) = self.loss {
            config.testing.loss = (rate > 0.0).then_some(Loss::Random { rate });
            config.testing.seed = self.loss_seed;
        }
        config.testing.slowdown = self.slowdown.or(config.testing.slowdown);
        if let Some(transport) = self.transport {
            config.testing.transport = match transport {
                Transport::Udp => fabric::Transport::Udp,
                Transport::Tcp => fabric::Transport::Tcp,
            };
        }
    }
}

/// How a leader synchronises and encodes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Synchronisation")]
pub(crate) struct SyncOptions {
    /// Whom a round waits for
    #[arg(long, value_enum)]
    pub(crate) sync: Option<Sync>,

    /// What takes the place of what a round goes on without [default: zero]
    #[arg(long, value_enum)]
    pub(crate) conceal: Option<Conceal>,

    /// Encoding of tensors on the network
    #[arg(long, value_enum)]
    pub(crate) wire: Option<Wire>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Sync {
    /// For everything: the result does not depend on what the network loses
    Strict,
    /// For what the scheduler says is needed, and for the rest a little
    Relaxed,
    /// For comparison: for everything, asking again only when TCP would
    LikeTcp,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Attention {
    /// On the leader
    Leader,
    /// Some heads on workers, where a token is expected sooner so
    Auto,
    /// For comparison: as many heads on every node
    Even,
}

impl From<Attention> for AttentionPlace {
    fn from(attention: Attention) -> Self {
        match attention {
            Attention::Leader => Self::Leader,
            Attention::Auto => Self::Auto,
            Attention::Even => Self::Even,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Conceal {
    /// Nothing
    Zero,
    /// The mean of what that worker has sent, scaled by how well it has fitted so far
    Mean,
    /// What that worker sent last, scaled likewise
    Last,
}

impl From<Conceal> for Concealment {
    fn from(conceal: Conceal) -> Self {
        match conceal {
            Conceal::Zero => Self::Zero,
            Conceal::Mean => Self::Mean,
            Conceal::Last => Self::Last,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Wire {
    /// 32-bit floats, exact
    F32,
    /// 16-bit floats
    F16,
    /// 8 bits in blocks of 32
    Q8,
    /// 4 bits in blocks of 32
    Q4,
}

impl SyncOptions {
    pub(crate) fn apply(&self, config: &mut Config) {
        if let Some(sync) = self.sync {
            config.sync.mode = match sync {
                Sync::Strict => SyncMode::Strict,
                Sync::Relaxed => SyncMode::Relaxed,
                Sync::LikeTcp => SyncMode::LikeTcp,
            };
        }
        if let Some(conceal) = self.conceal {
            config.sync.conceal = conceal.into();
        }
        if let Some(wire) = self.wire {
            let encoding = match wire {
                Wire::F32 => Encoding::F32,
                Wire::F16 => Encoding::F16,
                Wire::Q8 => Encoding::Q8,
                Wire::Q4 => Encoding::Q4,
            };
            (config.sync.activation, config.sync.partial) = (encoding, encoding);
        }
    }
}

/// A text to learn from or to predict: a file, and how many of its paragraphs make a document.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    path: PathBuf,
    pub(crate) paragraphs: NonZeroUsize,
}

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A number after the last colon; any other colon belongs to the file's name.
        let (path, paragraphs) = match text.rsplit_once(':') {
            Some((path, number))
                if number.chars().all(|c| c.is_ascii_digit()) && !number.is_empty() =>
            {
                (
                    path,
                    number
                        .parse()
                        .map_err(|_| format!("`{number}` is no number of paragraphs"))?,
                )
            }
            _ => (text, NonZeroUsize::MIN),
        };
        Ok(Self {
            path: path.into(),
            paragraphs,
        })
    }
}

impl Text {
    /// The file's name, for reports.
    pub(crate) fn name(&self) -> String {
        self.path
            .file_stem()
            .unwrap_or(self.path.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    pub(crate) fn read(&self) -> Result<String> {
        read_text(&self.path)
    }
}

/// Reads a whole text from a file, or from standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin())
            .context("cannot read standard input as UTF-8 text");
    }
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {} as UTF-8 text", path.display()))
}

/// Reads a number of things of which there must be one.
pub(crate) fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Reads a share that something else is left of.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..1.0).contains(&rate) => Ok(rate),
        _ => Err("a share is a number from 0 to less than 1, such as 0.1 for a tenth".into()),
    }
}

/// Reads how many times as long something is to take.
fn times(text: &str) -> Result<f64, String> {
    let times = text.parse().map_err(|_| halo_runtime::NO_SLOWDOWN)?;
    halo_runtime::slowdown(times)
}

/// Reads a share that may be everything.
fn share_or_all(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1, such as 0.5 for a half".into()),
    }
}

const NO_SIZE: &str = "write a number of bytes, or of KB, MB, GB or TB, such as 1.5GB";

/// Reads a number of bytes, in the units in which this program writes them.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let unit = match text[end..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "K" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "T" | "TB" => 1e12,
        _ => return Err(NO_SIZE.into()),
    };
    match text[..end].parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((number * unit) as u64),
        _ => Err(NO_SIZE.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_options() {
        assert_eq!(size("1.5GB"), Ok(1_500_000_000));
        assert_eq!(size("17"), Ok(17));
        assert_eq!(size("20 kb"), Ok(20_000));
        assert!(
            size("GB").is_err()
                && size("1.2.3").is_err()
                && size("5 apples").is_err()
                && size("-1").is_err()
        );
        assert_eq!(share("0.1"), Ok(0.1));
        let text = |t: &str| {
            t.parse::<Text>()
                .map(|t| (t.path.display().to_string(), t.paragraphs.get()))
        };
        assert_eq!(text("a:b.txt:12"), Ok(("a:b.txt".into(), 12)));
        assert_eq!(text("a:b.txt"), Ok(("a:b.txt".into(), 1)));
        assert!(text("a:0").is_err());
        assert!(share("1").is_err() && share("-0.1").is_err() && share("NaN").is_err());
    }
}
