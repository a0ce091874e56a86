use halo_models::{Matrix, Package, Values};

use crate::EngineError;

/// Layers' streamed groups that are in memory at once: the one being computed and the one being read.
const IN_FLIGHT: usize = 2;

/// Groups that are loaded together, as one product.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Which layer.
    pub layer: usize,
    /// Which of its groups.
    pub groups: Vec<u32>,
    /// Their share of the layer's importance.
    pub importance: f32,
}

/// In which order groups come into memory.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOrder {
    /// What the first pass waits for: of each layer the most important groups.
    pub first: Vec<Vec<u32>>,
    /// What comes while passes run, the most important first.
    pub rest: Vec<Batch>,
}

/// Which groups stay in memory and which are read anew for every pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlan {
    /// What stays, of each layer.
    pub resident: Vec<Vec<u32>>,
    /// What is read for every pass, of each layer.
    pub streamed: Vec<Vec<u32>>,
}

impl LoadOrder {
    /// All groups, so that each layer's first ones have at least `share` of its importance (of `importance`, `[layers,
    /// groups]`, or the same for all if there is none). The rest of a layer comes in two batches: more would make the products
    /// smaller and slower for as long as the model is in memory.
    #[must_use]
    pub fn new(package: &Package, importance: Option<&[f32]>, share: f32) -> Self {
        let ranked = ranked(package, importance);
        let mut first = Vec::new();
        let mut rest = Vec::new();
        for (layer, groups) in ranked.iter().enumerate() {
            let total: f32 = groups.iter().map(|(_, importance)| importance).sum();
            let mut sum = 0.0;
            let count = groups
                .iter()
                .position(|(_, importance)| {
                    sum += importance;
                    sum >= share * total
                })
                .map_or(groups.len(), |position| position + 1);
            let (now, later) = groups.split_at(count);
            first.push(sorted(now));
            for batch in later.chunks(later.len().div_ceil(2).max(1)) {
                rest.push(Batch {
                    layer,
                    groups: sorted(batch),
                    importance: batch.iter().map(|(_, i)| i).sum::<f32>() / total,
                });
            }
        }
        rest.sort_by(|a, b| b.importance.total_cmp(&a.importance));
        Self { first, rest }
    }
}

impl StreamPlan {
    /// All groups within `budget` bytes of memory: as many of each layer's most important ones as fit stay in it. Each layer
    /// streams as much as any other, so that reading never has to catch up.
    ///
    /// # Errors
    ///
    /// Not even the layers in flight fit.
    pub fn new(
        package: &Package,
        importance: Option<&[f32]>,
        budget: u64,
    ) -> Result<Self, EngineError> {
        let bytes = |resident| Self::bytes(package, resident);
        let Some(resident) = (0..=package.groups()).rev().find(|&n| bytes(n) <= budget) else {
            return Err(EngineError::MemoryTooSmall {
                needed: bytes(0),
                budget,
            });
        };
        let (resident, streamed) = ranked(package, importance)
            .iter()
            .map(|groups| groups.split_at(resident))
            .map(|(stays, goes)| (sorted(stays), sorted(goes)))
            .unzip();
        Ok(Self { resident, streamed })
    }

    /// The least memory with which all groups can be computed.
    #[must_use]
    pub fn least(package: &Package) -> u64 {
        Self::bytes(package, 0)
    }

    /// Memory for so many resident groups in every layer, and for those of the layers in flight.
    fn bytes(package: &Package, resident: usize) -> u64 {
        let layers = package.shape().layers;
        let in_flight = IN_FLIGHT.min(layers) * (package.groups() - resident);
        (layers * resident) as u64 * packed_group_bytes(package)
            + in_flight as u64 * package.group_bytes()
    }
}

/// Every group of every layer.
pub(crate) fn all_groups(package: &Package) -> Vec<Vec<u32>> {
    vec![(0..package.groups() as u32).collect(); package.shape().layers]
}

/// Bytes of memory that a feed-forward group takes once ONNX Runtime has packed it.
#[must_use]
pub fn packed_group_bytes(package: &Package) -> u64 {
    let group = package.group(0, 0);
    packed_bytes(&[group.gate, group.up, group.down])
}

/// Bytes of memory that all feed-forward groups of all layers take.
#[must_use]
pub fn packed_groups_bytes(package: &Package) -> u64 {
    packed_group_bytes(package) * (package.shape().layers * package.groups()) as u64
}

/// Bytes of memory that the weights of a [`Backbone`](crate::Backbone) take. The embedding takes none: rows of it are read as
/// they are wanted.
#[must_use]
pub fn packed_backbone_bytes(package: &Package) -> u64 {
    let of_layer = |layer| {
        let attention = package.attention(layer);
        packed_bytes(&[
            attention.query,
            attention.key,
            attention.value,
            attention.output,
        ])
    };
    let layers: u64 = (0..package.shape().layers).map(of_layer).sum();
    layers + packed_bytes(&[package.head()])
}

fn packed_bytes(matrices: &[Matrix<'_>]) -> u64 {
    let bytes = |matrix: &Matrix<'_>| {
        let elements = matrix.rows * matrix.columns;
        let bytes = match matrix.values {
            Values::F32(_) | Values::F16(_) => elements * 4,
            // A scale and a sum for each block of each plane of 4 bits.
            Values::Quantised { bits, block, .. } => {
                usize::from(bits) / 4 * (elements / 2 + elements / block * 8)
            }
        };
        bytes as u64
    };
    matrices.iter().map(bytes).sum()
}

/// Each layer's groups with their importance, the most important first.
fn ranked(package: &Package, importance: Option<&[f32]>) -> Vec<Vec<(u32, f32)>> {
    let groups = package.groups();
    let of_layer = |layer: usize| {
        let known = importance.and_then(|i| i.get(layer * groups..(layer + 1) * groups));
        let mut ranked: Vec<_> = (0..groups)
            .map(|group| (group as u32, known.map_or(1.0, |i| i[group].max(0.0))))
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    };
    (0..package.shape().layers).map(of_layer).collect()
}

/// Indices in order, which is that of the bytes on the disk.
fn sorted(groups: &[(u32, f32)]) -> Vec<u32> {
    let mut indices: Vec<u32> = groups.iter().map(|(group, _)| *group).collect();
    indices.sort_unstable();
    indices
}
