//! Questions that policies were asked: what a new one is tried on before it is put in force.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Device, Model, Placement, Round};

/// Layers of which a slot remembers the last question.
const MAX_LAYERS: u32 = 256;

/// The questions of one forward pass on one cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// The model.
    pub model: Model,
    /// The last question for a placement.
    pub placing: Option<Placing>,
    /// Each layer's last round.
    pub rounds: Vec<Round>,
    /// Each layer's last hidden state, in the order of the layers.
    pub states: Vec<State>,
}

impl Recording {
    /// A pass that was recorded on the default model and four nodes, at 10 % loss.
    ///
    /// # Panics
    ///
    /// Never: it is part of the program, and a test reads it.
    pub fn sample() -> Self {
        serde_json::from_str(include_str!("../recordings/tiny.json"))
            .expect("a test has read this very text")
    }
}

/// A question for a placement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Placing {
    /// The devices there were, the leader first.
    pub devices: Vec<Device>,
    /// The placement that was in force over them.
    pub current: Option<Placement>,
}

/// A question for a layer's scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The layer to score.
    pub layer: u32,
    /// The residual stream one round earlier: `width` values.
    pub hidden: Vec<f32>,
}

/// The last question about each layer.
#[derive(Debug)]
pub(crate) struct LastPass<T>(BTreeMap<u32, T>);

impl<T> Default for LastPass<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> LastPass<T> {
    /// The place for the question about `layer`, with the one before in it, whose memory can be used again.
    pub(crate) fn entry(&mut self, layer: u32) -> Option<&mut T>
    where
        T: Default,
    {
        (layer < MAX_LAYERS).then(|| self.0.entry(layer).or_default())
    }

    /// The questions in the order of their layers.
    pub(crate) fn questions(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.0.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_whole_pass() {
        let Recording {
            model,
            placing,
            rounds,
            states,
        } = Recording::sample();
        let layers: Vec<u32> = (0..model.layers).collect();
        assert_eq!(layers, rounds.iter().map(|r| r.layer).collect::<Vec<_>>());
        assert_eq!(layers, states.iter().map(|s| s.layer).collect::<Vec<_>>());
        assert!(
            states
                .iter()
                .all(|s| s.hidden.len() == model.width as usize)
        );
        assert!(rounds.iter().all(|r| !r.debtors.is_empty()));
        assert_eq!(placing.map(|p| p.devices.len()), Some(4));
    }

    #[test]
    fn layers_that_no_model_has_are_not_recorded() {
        let mut pass = LastPass::<Round>::default();
        for layer in [1, 0, MAX_LAYERS, u32::MAX] {
            if let Some(round) = pass.entry(layer) {
                round.layer = layer;
            }
        }
        let layers: Vec<u32> = pass.questions().iter().map(|round| round.layer).collect();
        assert_eq!(layers, [0, 1]);
    }
}
