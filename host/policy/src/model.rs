//! The model as policies see it.

use serde::{Deserialize, Serialize};

/// The model, as far as a policy needs to know it.
///
/// Lists over layers and groups are flat, layer by layer: the value of `group` in `layer` is at `layer * groups + group`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Transformer layers. One feed-forward round each.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Feed-forward neuron groups in each layer.
    pub groups: u32,
    /// Bytes that one group's weights take in memory.
    pub group_bytes: u64,
    /// Work of one layer's attention, in units of one group's work.
    pub attention_cost: f32,
    /// Work of the output head, once a token, in units of one group's work.
    pub head_cost: f32,
    /// Calibrated mean importance, `layers * groups` values, non-negative, each layer's adding up to 1. Empty if the package
    /// is not calibrated.
    pub importance: Vec<f32>,
}

impl Model {
    /// Groups in all layers together.
    pub fn total_groups(&self) -> usize {
        self.layers as usize * self.groups as usize
    }

    /// The calibrated importance of one layer's groups. `None` without calibration, past the last layer, or if the list has
    /// not the length that it should have.
    pub fn layer_importance(&self, layer: u32) -> Option<&[f32]> {
        if self.importance.len() != self.total_groups() || layer >= self.layers {
            return None;
        }
        let groups = self.groups as usize;
        self.importance
            .get(layer as usize * groups..(layer as usize + 1) * groups)
    }
}

/// One named array of a package's calibration, row-major.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Its name in the package, such as `probe.down`.
    pub name: String,
    /// Length of each dimension, outermost first.
    pub shape: Vec<u32>,
    /// The values, as many as the product of `shape`.
    pub values: Vec<f32>,
}

/// One `key = "value"` of the node's configuration for a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What is set. Each policy documents its own keys.
    pub key: String,
    /// The value, to be read by the policy.
    pub value: String,
}

impl Setting {
    /// A setting of `key` to `value`.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
        }
    }
}
