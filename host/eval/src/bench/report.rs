use halo_models::{Package, Quantisation};
use serde::{Deserialize, Serialize};

use super::{Cluster, Machine, Memory, PolicyTimings, Timing};

/// What a package does on a machine, with one number of threads after another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of HALO.
    pub halo: String,
    /// What was measured on.
    pub machine: Machine,
    /// What was measured.
    pub model: Model,
    /// The measurements on this machine alone.
    pub runs: Vec<Run>,
    /// Those on a cluster, which are made in place of the others. `None` in reports of versions that did not make them.
    #[serde(default)]
    pub cluster: Option<Cluster>,
}

/// The package that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its layers.
    pub layers: usize,
    /// Its width.
    pub width: usize,
    /// How its weights are stored.
    pub quantisation: Quantisation,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Those of them that the products of one decoded token read: all but an embedding of its own, and the norms.
    pub token_bytes: u64,
}

/// What was measured with one number of threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Threads that computed, each on a core.
    pub threads: usize,
    /// The file name of ONNX Runtime's library, which as a rule has its version.
    pub onnxruntime: String,
    /// Seconds from opening the package until it could generate.
    pub load_seconds: f64,
    /// What it took. `None` where the system does not tell.
    pub memory: Option<Memory>,
    /// Decoding, one token after another, with so many tokens in the KV cache before them.
    pub decode: Vec<(usize, Timing)>,
    /// Decoding so many generations at once, from an empty context: what a token of any of them took.
    #[serde(default)]
    pub parallel: Vec<(usize, Timing)>,
    /// Reading a prompt of so many tokens, up to the logits after it.
    pub prefill: (usize, Timing),
    /// The products alone. `None` where the memory is too small for the weights a second time.
    pub products: Option<ProductTimings>,
    /// Calls of policies. `None` in reports of versions that did not measure them.
    #[serde(default)]
    pub policies: Option<PolicyTimings>,
}

/// The model's matrix products alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProductTimings {
    /// Those of a decoded token.
    pub decode: Timing,
    /// Those of a prompt as long as the one that was read.
    pub prefill: Timing,
}

impl Model {
    /// What is told about a package.
    #[must_use]
    pub fn of(package: &Package) -> Self {
        let shape = package.shape();
        let attention = (0..shape.layers).map(|layer| {
            let attention = package.attention(layer);
            let matrices = [
                attention.query,
                attention.key,
                attention.value,
                attention.output,
            ];
            matrices.iter().map(|matrix| matrix.bytes()).sum::<u64>()
        });
        Self {
            name: package.name().to_owned(),
            layers: shape.layers,
            width: shape.width,
            quantisation: package.manifest().quantisation,
            weight_bytes: package.weight_bytes(),
            token_bytes: attention.sum::<u64>()
                + package.all_groups_bytes()
                + package.head().bytes(),
        }
    }
}

impl Run {
    /// The share of a decoded token's time that is not the products', at the shortest context that was measured. Below zero
    /// where the products' times are further apart than that.
    #[must_use]
    pub fn outside_products(&self) -> Option<f64> {
        let (_, decode) = self.decode.iter().min_by_key(|(context, _)| *context)?;
        Some(1.0 - self.products.as_ref()?.decode.share_of(decode)?)
    }
}
