use std::path::PathBuf;

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    pub(super) name: &'static str,
    /// The package whose speed is measured.
    pub(super) model: Option<PathBuf>,
    /// What all its neuron groups take in memory.
    pub(super) group_bytes: u64,
    /// Numbers of hosts.
    pub(super) hosts: &'static [u8],
    /// Shares of packets lost, where speed is measured.
    pub(super) loss: &'static str,
    /// The same where quality is.
    pub(super) quality_loss: &'static [&'static str],
    /// The same on a real cluster; and loss and placements where one host loses it all.
    pub(super) cluster_loss: &'static str,
    pub(super) bad_host: &'static str,
    /// Tokens of a generation, and seconds after which it is cut short.
    pub(super) tokens: u32,
    pub(super) limit: u32,
    /// Times that each speed is measured.
    pub(super) rounds: u32,
    /// Times that each quality is measured on an imitated cluster.
    pub(super) seeds: u32,
    /// Times that each quality is measured on a real one.
    pub(super) repeats: u32,
    /// Documents of each text, and stories with a gap, on an imitated cluster and on a real one.
    pub(super) documents: [u32; 2],
    pub(super) stories: [u32; 2],
    /// Rounds in which nothing is computed.
    pub(super) pings: u32,
}

impl Scale {
    pub(super) const FULL: Self = Self {
        name: "full",
        model: None,
        group_bytes: 430_000_000,
        hosts: &[2, 3, 4],
        loss: "0,0.01,0.05,0.1,0.2",
        quality_loss: &["0.05", "0.1", "0.2", "0.3"],
        cluster_loss: "0,0.05,0.2",
        bad_host: "--loss 0.2 --placement aware,blind,worst",
        tokens: 48,
        limit: 12,
        rounds: 3,
        seeds: 4,
        repeats: 2,
        documents: [20, 4],
        stories: [200, 12],
        pings: 5000,
    };

    pub(super) const QUICK: Self = Self {
        name: "quick",
        model: None,
        group_bytes: 430_000_000,
        hosts: &[2, 3],
        loss: "0,0.05",
        quality_loss: &["0.05", "0.2"],
        cluster_loss: "0,0.05",
        bad_host: "--loss 0.2 --placement aware,blind",
        tokens: 16,
        limit: 6,
        rounds: 1,
        seeds: 2,
        repeats: 1,
        documents: [6, 2],
        stories: [40, 5],
        pings: 500,
    };

    /// As little as there can be, with the smallest model.
    pub(super) fn trial() -> Self {
        Self {
            name: "trial",
            model: Some("models/tiny".into()),
            group_bytes: 2_300_000,
            hosts: &[2],
            cluster_loss: "0",
            bad_host: "--loss 0.05 --placement aware",
            tokens: 8,
            documents: [1, 1],
            stories: [4, 2],
            pings: 20,
            ..Self::QUICK
        }
    }

    pub(super) fn with_model(self, package: PathBuf) -> Self {
        Self {
            model: Some(package),
            ..self
        }
    }

    /// The option that names the model.
    pub(super) fn model(&self) -> String {
        self.model
            .as_ref()
            .map_or_else(String::new, |model| format!(" --model {}", model.display()))
    }
}
