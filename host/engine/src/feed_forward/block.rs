use halo_models::Package;
use ort::memory::Allocator;
use ort::operator::OperatorDomain;
use ort::session::{IoBinding, Session};
use ort::value::{Tensor, TensorElementType};

use super::gate::Gate;
use crate::error::Context;
use crate::graph::{ANY, GraphBuilder, HALO};
use crate::weights::{self, Weights};
use crate::{Engine, EngineError};

/// Some groups of one layer, computed as one product: many small ones would be slower.
#[derive(Debug)]
pub(super) struct Block {
    layer: usize,
    width: usize,
    neurons: usize,
    session: Session,
    /// Buffers and bindings of single-row passes, and of the last other row count.
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

impl Block {
    /// Reads the groups' weights and builds the graph. The package's pages are let go of: ONNX Runtime has packed copies.
    pub(super) fn load(
        engine: &Engine,
        package: &Package,
        layer: usize,
        groups: &[u32],
    ) -> Result<Self, EngineError> {
        let regions = regions(package, layer, groups)?;
        for region in &regions {
            region.read()?;
        }
        let block = Self::pack(engine, package, layer, groups)?;
        for region in &regions {
            region.release();
        }
        Ok(block)
    }

    /// Builds the graph of groups that exist and have been read.
    pub(super) fn pack(
        engine: &Engine,
        package: &Package,
        layer: usize,
        groups: &[u32],
    ) -> Result<Self, EngineError> {
        Ok(Self {
            layer,
            width: package.shape().width,
            neurons: groups.len() * package.group_size(),
            session: session(engine, package, layer, groups)?,
            single: None,
            several: None,
        })
    }

    pub(super) fn layer(&self) -> usize {
        self.layer
    }

    /// Adds its contribution for `normed` to `partial`, both `[rows, width]`; appends the neurons' activations to `observed`.
    pub(super) fn run(
        &mut self,
        normed: &[f32],
        partial: &mut [f32],
        observed: Option<&mut Vec<f32>>,
    ) -> Result<(), EngineError> {
        let rows = normed.len() / self.width;
        let layer = self.layer;
        let what = || format!("the feed-forward groups of layer {layer}");
        let slot = if rows == 1 {
            &mut self.single
        } else {
            &mut self.several
        };
        let fits = |p: &Pass| p.rows == rows && p.activations.is_some() == observed.is_some();
        let pass = match slot.take().filter(fits) {
            Some(pass) => slot.insert(pass),
            None => {
                let neurons = observed.is_some().then_some(self.neurons);
                slot.insert(bind(&self.session, rows, self.width, neurons).context(what)?)
            }
        };
        pass.input.extract_tensor_mut().1.copy_from_slice(normed);
        self.session.run_binding(&pass.binding).context(what)?;
        for (sum, value) in partial.iter_mut().zip(pass.partial.extract_tensor().1) {
            *sum += value;
        }
        if let (Some(target), Some(source)) = (observed, &pass.activations) {
            target.extend_from_slice(source.extract_tensor().1);
        }
        Ok(())
    }
}

/// Where the groups' weights lie.
pub(super) fn regions<'a>(
    package: &'a Package,
    layer: usize,
    groups: &[u32],
) -> Result<Vec<halo_models::Region<'a>>, EngineError> {
    groups
        .iter()
        .map(|&group| {
            if (group as usize) < package.groups() {
                Ok(package.group_region(layer, group as usize))
            } else {
                Err(EngineError::Mismatch {
                    what: "index of a neuron group",
                    expected: package.groups(),
                    got: group as usize,
                })
            }
        })
        .collect()
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
    let (gates_and_ups, downs) =
        weights::feed_forward(package, layer, groups.iter().map(|group| *group as usize));
    let mut graph = GraphBuilder::new(
        format!("the feed-forward groups of layer {layer}"),
        &[("x", Float32, &[1, ANY, width])],
        &[
            ("partial", Float32, &[1, ANY, width]),
            ("activations", Float32, &[1, ANY, neurons]),
        ],
    )?;
    graph.stacked("gate_up", "x", "product", &gates_and_ups)?;
    graph.node("Gate", HALO, &["product"], &["activations"], &[])?;
    graph.product("down", "activations", "partial", Weights::join(&downs)?)?;
    let operators = OperatorDomain::new(HALO).and_then(|domain| domain.add(Gate));
    let operators = operators.context(|| "the gating operator".into())?;
    graph.build(engine, Some(operators.into()))
}
