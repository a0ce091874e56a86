use halo_models::Package;
use ort::editor::ONNX_DOMAIN;
use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{Tensor, TensorElementType};

use crate::error::Context;
use crate::graph::{ANY, GraphBuilder};
use crate::weights::Weights;
use crate::{Engine, EngineError, FeedForwardSource, FeedForwardStep};

/// The feed-forward neuron groups that this node computes: some groups of each layer, maybe all, maybe none.
///
/// A layer's groups run as one product. The result is their *partial*: the sum of their contributions to the residual stream.
#[derive(Debug)]
pub struct FeedForward {
    width: usize,
    group_size: usize,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    groups: Vec<u32>,
    /// `None` where this node has no group of the layer.
    session: Option<Session>,
    single: Option<Pass>,
    several: Option<Pass>,
}

#[derive(Debug)]
struct Pass {
    rows: usize,
    input: Tensor<f32>,
    partial: Tensor<f32>,
    /// Only where the caller wants to see the neurons' activations.
    activations: Option<Tensor<f32>>,
    binding: IoBinding,
}

impl FeedForward {
    /// Builds the graphs for `groups`: one list of group indices per layer.
    ///
    /// # Errors
    ///
    /// An index or the number of lists does not fit the package, or ONNX Runtime refuses a graph.
    pub fn load(
        engine: &Engine,
        package: &Package,
        groups: &[Vec<u32>],
    ) -> Result<Self, EngineError> {
        let shape = package.shape();
        if groups.len() != shape.layers {
            return Err(EngineError::Mismatch {
                what: "layers of a placement",
                expected: shape.layers,
                got: groups.len(),
            });
        }
        let layers = groups
            .iter()
            .enumerate()
            .map(|(layer, groups)| {
                let session = (!groups.is_empty())
                    .then(|| session(engine, package, layer, groups))
                    .transpose()?;
                Ok(Layer {
                    groups: groups.clone(),
                    session,
                    single: None,
                    several: None,
                })
            })
            .collect::<Result<_, EngineError>>()?;
        Ok(Self {
            width: shape.width,
            group_size: package.group_size(),
            layers,
        })
    }

    /// All groups of all layers.
    ///
    /// # Errors
    ///
    /// ONNX Runtime refuses a graph.
    pub fn load_all(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        let all: Vec<u32> = (0..package.groups() as u32).collect();
        Self::load(engine, package, &vec![all; package.shape().layers])
    }

    /// The groups of one layer, in the order in which they were given.
    pub fn groups(&self, layer: usize) -> &[u32] {
        self.layers.get(layer).map_or(&[], |l| &l.groups)
    }

    /// Computes this node's partial of one layer: `normed` and `partial` are `[rows, width]`. Zero where it has no group.
    ///
    /// # Errors
    ///
    /// The buffers do not fit, or ONNX Runtime fails.
    pub fn run(
        &mut self,
        layer: usize,
        normed: &[f32],
        partial: &mut [f32],
    ) -> Result<(), EngineError> {
        self.run_with(layer, normed, partial, None)
    }

    /// As [`run`](Self::run), and gives the neurons' activations, `silu(gate) * up`: `[rows, groups * group_size]`, in the
    /// order of [`groups`](Self::groups). For calibration.
    ///
    /// # Errors
    ///
    /// The buffers do not fit, or ONNX Runtime fails.
    pub fn run_observed(
        &mut self,
        layer: usize,
        normed: &[f32],
        partial: &mut [f32],
        activations: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        self.run_with(layer, normed, partial, Some(activations))
    }

    fn run_with(
        &mut self,
        layer: usize,
        normed: &[f32],
        partial: &mut [f32],
        observed: Option<&mut Vec<f32>>,
    ) -> Result<(), EngineError> {
        let rows = normed.len() / self.width;
        if normed.len() != rows * self.width || partial.len() != normed.len() || rows == 0 {
            return Err(EngineError::Mismatch {
                what: "values of the feed-forward's rows",
                expected: rows * self.width,
                got: partial.len(),
            });
        }
        let count = self.layers.len();
        let Some(state) = self.layers.get_mut(layer) else {
            return Err(EngineError::Mismatch {
                what: "layer",
                expected: count,
                got: layer,
            });
        };
        let Some(session) = &mut state.session else {
            partial.fill(0.0);
            if let Some(activations) = observed {
                activations.clear();
            }
            return Ok(());
        };
        let what = || format!("the feed-forward groups of layer {layer}");
        let slot = if rows == 1 {
            &mut state.single
        } else {
            &mut state.several
        };
        let pass = match slot
            .take()
            .filter(|p| p.rows == rows && p.activations.is_some() == observed.is_some())
        {
            Some(pass) => slot.insert(pass),
            None => {
                let neurons = observed
                    .is_some()
                    .then_some(state.groups.len() * self.group_size);
                slot.insert(bind(session, rows, self.width, neurons).context(what)?)
            }
        };
        pass.input.extract_tensor_mut().1.copy_from_slice(normed);
        session.run_binding(&pass.binding).context(what)?;
        partial.copy_from_slice(pass.partial.extract_tensor().1);
        if let (Some(target), Some(source)) = (observed, &pass.activations) {
            target.clear();
            target.extend_from_slice(source.extract_tensor().1);
        }
        Ok(())
    }
}

/// This machine alone: whatever groups it has.
impl FeedForwardSource for FeedForward {
    type Error = EngineError;

    fn begin(&mut self, _embedded: &[f32]) -> Result<(), EngineError> {
        Ok(())
    }

    fn step(&mut self, step: FeedForwardStep<'_>) -> Result<(), EngineError> {
        self.run(step.layer, step.normed, step.sum)
    }
}

fn bind(session: &Session, rows: usize, width: usize, neurons: Option<usize>) -> ort::Result<Pass> {
    let allocator = Allocator::default();
    let mut binding = session.create_binding()?;
    let input = Tensor::<f32>::new(&allocator, [1, rows, width])?;
    let mut partial = Tensor::<f32>::new(&allocator, [1, rows, width])?;
    binding.bind_input("x", &input)?;
    binding.bind_output("partial", &mut partial)?;
    let activations = match neurons {
        Some(neurons) => {
            let mut tensor = Tensor::<f32>::new(&allocator, [1, rows, neurons])?;
            binding.bind_output("activations", &mut tensor)?;
            Some(tensor)
        }
        None => None,
    };
    Ok(Pass {
        rows,
        input,
        partial,
        activations,
        binding,
    })
}

fn session(
    engine: &Engine,
    package: &Package,
    layer: usize,
    groups: &[u32],
) -> Result<Session, EngineError> {
    use TensorElementType::Float32;
    let width = package.shape().width as i64;
    let neurons = (groups.len() * package.group_size()) as i64;
    let (mut gate, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
    for &group in groups {
        if group as usize >= package.groups() {
            return Err(EngineError::Mismatch {
                what: "index of a neuron group",
                expected: package.groups(),
                got: group as usize,
            });
        }
        let weights = package.group(layer, group as usize);
        gate.push(weights.gate);
        up.push(weights.up);
        down.push(weights.down);
    }
    let mut graph = GraphBuilder::new(
        format!("the feed-forward groups of layer {layer}"),
        &[("x", Float32, &[1, ANY, width])],
        &[
            ("partial", Float32, &[1, ANY, width]),
            ("activations", Float32, &[1, ANY, neurons]),
        ],
    )?;
    graph.product("gate", "x", "gated", &Weights::stack(&gate)?)?;
    graph.product("up", "x", "upped", &Weights::stack(&up)?)?;
    graph.node("Sigmoid", ONNX_DOMAIN, &["gated"], &["sigmoid"], &[])?;
    graph.node("Mul", ONNX_DOMAIN, &["gated", "sigmoid"], &["silu"], &[])?;
    graph.node(
        "Mul",
        ONNX_DOMAIN,
        &["silu", "upped"],
        &["activations"],
        &[],
    )?;
    graph.product("down", "activations", "partial", &Weights::join(&down)?)?;
    graph.build(engine)
}
