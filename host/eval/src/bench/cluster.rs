use halo_runtime::{Counts, Pinged, Planned};
use serde::{Deserialize, Serialize};

use super::Timing;

/// What a cluster does with a package: its leader alone, and with one worker more at each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The leader's threads.
    pub threads: usize,
    /// The scheduler that placed the groups.
    pub scheduler: String,
    /// How rounds were synchronised, in a word.
    pub mode: String,
    /// Tokens of each prompt, at most.
    pub prompt: usize,
    /// Tokens decoded after it in each measurement.
    pub tokens: usize,
    /// Rounds with each worker in which nothing is computed, in the order in which the workers join.
    pub rounds: Vec<(String, Pinged)>,
    /// The measurements, the leader alone first.
    pub steps: Vec<Step>,
}

/// What was measured with some of the workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The workers that could have a part.
    pub workers: Vec<String>,
    /// Decoding after the prompt. Nothing was measured where the model does not fit the memory of these nodes.
    pub decode: Timing,
    /// Reading the prompt, up to the first token.
    pub prefill: Timing,
    /// What each node was given at last, the leader's first; nothing of a leader alone.
    pub parts: Vec<Part>,
    /// Share of predicted contribution that was concealed in each measurement.
    pub concealed: Vec<f64>,
    /// What all measurements together put on the network.
    pub traffic: Traffic,
}

/// What a node was given to compute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub node: String,
    /// Share of all neuron groups.
    pub share: f64,
    /// KV heads of each layer.
    pub heads: usize,
    /// Share of packets lost on the way there and back, as the leader estimates it.
    pub loss: f32,
    /// Why it was given as much as that.
    pub why: String,
}

/// What went over the network, from the leader's side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Rounds.
    pub rounds: u64,
    /// Tensor packets sent.
    pub sent: u64,
    /// Tensor packets received.
    pub received: u64,
    /// Packets that arrived at the leader and were lost on purpose.
    pub dropped: u64,
    /// Lost packets that their parity made up for.
    pub made_up: u64,
    /// Times that something lost was asked for again.
    pub asked_again: u64,
}

impl Cluster {
    /// How many times as fast as the leader alone a step decodes: the median over measurements made in turns. If the leader has no
    /// memory for the model, it is the first step that has which counts as 1.
    #[must_use]
    pub fn speed(&self, step: &Step) -> Option<f64> {
        self.first()?.decode.share_of(&step.decode)
    }

    /// The first step in which anything was measured.
    #[must_use]
    pub fn first(&self) -> Option<&Step> {
        (self.steps.iter()).find(|step| !step.decode.seconds.is_empty())
    }
}

impl Step {
    /// Takes in a generation that these workers had a part in, and how the groups were placed.
    pub fn add(&mut self, report: &halo_runtime::Report, planned: &Planned) {
        let read = report.prompt_tokens - report.reused_tokens;
        let decoded = report.tokens.len().saturating_sub(1);
        let token = |seconds: f64, tokens: usize| seconds / tokens.max(1) as f64;
        self.prefill
            .seconds
            .push(token(report.prefill_seconds, read));
        self.decode
            .seconds
            .push(token(report.decode_seconds, decoded));
        self.concealed.push(f64::from(report.concealed));
        self.traffic.add(&report.counts);
        let part = |device: &halo_runtime::PlannedDevice| Part {
            node: device.node.to_string(),
            share: device.share,
            heads: device.heads,
            loss: device.loss,
            why: device.why.clone(),
        };
        self.parts = planned.devices.iter().map(part).collect();
    }

    /// Whether the scheduler gives no worker anything to do.
    #[must_use]
    pub fn leaves_all_with_the_leader(&self) -> bool {
        let mut workers = self.parts.iter().skip(1);
        workers.all(|part| part.share == 0.0 && part.heads == 0)
    }
}

impl Traffic {
    fn add(&mut self, counts: &Counts) {
        self.rounds += counts.rounds;
        self.sent += counts.packets_sent;
        self.received += counts.packets_received;
        self.dropped += counts.packets_lost;
        self.made_up += counts.made_up;
        self.asked_again += counts.asked_again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seconds: &[f64]) -> Step {
        Step {
            decode: Timing {
                seconds: seconds.to_vec(),
            },
            ..Step::default()
        }
    }

    #[test]
    fn speed_is_relative_to_the_first_that_was_measured() {
        let mut cluster = Cluster {
            name: "home".into(),
            threads: 1,
            scheduler: "test".into(),
            mode: "strict".into(),
            prompt: 8,
            tokens: 4,
            rounds: Vec::new(),
            steps: vec![step(&[0.2, 0.4]), step(&[0.1, 0.1]), step(&[])],
        };
        let speeds = |cluster: &Cluster| {
            let steps = cluster.steps.iter();
            steps.map(|step| cluster.speed(step)).collect::<Vec<_>>()
        };
        assert_eq!(speeds(&cluster), [Some(1.0), Some(3.0), None]);
        cluster.steps[0] = step(&[]);
        assert_eq!(speeds(&cluster), [None, Some(1.0), None]);
    }

    #[test]
    fn generations_add_up() {
        let report = halo_runtime::Report {
            prompt_tokens: 12,
            reused_tokens: 2,
            tokens: vec![1, 2, 3],
            prefill_seconds: 5.0,
            decode_seconds: 3.0,
            concealed: 0.25,
            counts: Counts {
                rounds: 7,
                made_up: 2,
                ..Counts::default()
            },
            ..halo_runtime::Report::default()
        };
        let planned = Planned {
            epoch: 1,
            scheduler: "test".into(),
            token_us: 1,
            round_us: 1.0,
            devices: Vec::new(),
        };
        let mut step = Step::default();
        step.add(&report, &planned);
        step.add(&report, &planned);
        assert_eq!(step.prefill.seconds, [0.5, 0.5]);
        assert_eq!(step.decode.seconds, [1.5, 1.5]);
        assert_eq!(step.concealed, [0.25, 0.25]);
        assert_eq!((step.traffic.rounds, step.traffic.made_up), (14, 4));
    }
}
