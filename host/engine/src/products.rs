use halo_models::Package;
use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{Tensor, TensorElementType};

use crate::error::Context;
use crate::graph::{ANY, GraphBuilder};
use crate::weights::{self, Weights};
use crate::{Engine, EngineError};

/// A model's matrix products and nothing else: what the rest of a forward pass is measured against.
///
/// The same weights as a generation's, every layer's its own, so that they come from memory as they do when decoding. Inputs
/// are made up: how long a product takes does not depend on them.
#[derive(Debug)]
pub struct Products {
    /// The inputs' names and lengths, and the outputs', of a layer and of the head.
    layer_ports: Ports,
    head_ports: Ports,
    layers: Vec<Session>,
    head: Session,
    pass: Option<Pass>,
}

#[derive(Debug)]
struct Ports {
    inputs: Vec<(&'static str, usize)>,
    outputs: Vec<(&'static str, usize)>,
}

/// Bindings for a number of rows. They hold the buffers, which all layers share.
#[derive(Debug)]
struct Pass {
    rows: usize,
    layers: Vec<IoBinding>,
    head: IoBinding,
}

impl Products {
    /// Builds the graphs: one a layer, and one for the output head.
    ///
    /// # Errors
    ///
    /// ONNX Runtime refuses a graph.
    pub fn load(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        let shape = package.shape();
        let (queries, keys) = (
            shape.heads * shape.head_width,
            shape.kv_heads * shape.head_width,
        );
        let layer_ports = Ports {
            inputs: vec![
                ("x", shape.width),
                ("attended", queries),
                ("activations", shape.feed_forward),
            ],
            outputs: vec![
                ("qkv", queries + 2 * keys),
                ("output", shape.width),
                ("gate_up", 2 * shape.feed_forward),
                ("down", shape.width),
            ],
        };
        let head_ports = Ports {
            inputs: vec![("x", shape.width)],
            outputs: vec![("head", shape.vocabulary)],
        };
        let layers = (0..shape.layers)
            .map(|layer| {
                let attention = package.attention(layer);
                let (gates_and_ups, downs) =
                    weights::feed_forward(package, layer, 0..package.groups());
                let mut graph = layer_ports.graph(format!("the products of layer {layer}"))?;
                let qkv = [attention.query, attention.key, attention.value];
                graph.stacked("qkv.weights", "x", "qkv", &qkv)?;
                graph.stacked("output.weights", "attended", "output", &[attention.output])?;
                graph.stacked("gate_up.weights", "x", "gate_up", &gates_and_ups)?;
                let down = Weights::join(&downs)?;
                graph.product("down.weights", "activations", "down", down)?;
                graph.build(engine, None)
            })
            .collect::<Result<_, EngineError>>()?;
        let mut graph = head_ports.graph("the product of the output head".into())?;
        graph.stacked("head.weights", "x", "head", &[package.head()])?;
        let head = graph.build(engine, None)?;
        Ok(Self {
            layer_ports,
            head_ports,
            layers,
            head,
            pass: None,
        })
    }

    /// Computes every product of the layers once, one layer after another, as a forward pass of `rows` rows would; and with
    /// `head` that of the output head, for one row, since only the last row's logits are wanted.
    ///
    /// # Errors
    ///
    /// ONNX Runtime fails.
    pub fn run(&mut self, rows: usize, head: bool) -> Result<(), EngineError> {
        let pass = match self.pass.take().filter(|pass| pass.rows == rows) {
            Some(pass) => self.pass.insert(pass),
            None => {
                let pass = self
                    .bind(rows)
                    .context(|| format!("the bindings of {rows} rows"))?;
                self.pass.insert(pass)
            }
        };
        for (layer, (session, binding)) in self.layers.iter_mut().zip(&pass.layers).enumerate() {
            session
                .run_binding(binding)
                .context(|| format!("the products of layer {layer}"))?;
        }
        if head {
            self.head
                .run_binding(&pass.head)
                .context(|| "the product of the output head".into())?;
        }
        Ok(())
    }

    fn bind(&self, rows: usize) -> ort::Result<Pass> {
        let mut buffers = self.layer_ports.buffers(rows)?;
        let layers = self
            .layers
            .iter()
            .map(|session| self.layer_ports.bind(session, &mut buffers))
            .collect::<ort::Result<_>>()?;
        let mut buffers = self.head_ports.buffers(1)?;
        let head = self.head_ports.bind(&self.head, &mut buffers)?;
        Ok(Pass { rows, layers, head })
    }
}

impl Ports {
    fn all(&self) -> impl Iterator<Item = &(&'static str, usize)> {
        self.inputs.iter().chain(&self.outputs)
    }

    /// An empty graph.
    fn graph(&self, what: String) -> Result<GraphBuilder, EngineError> {
        let shape = |&(_, length): &(&str, usize)| [1, ANY, length as i64];
        let shapes: Vec<_> = self.all().map(shape).collect();
        let all: Vec<_> = self
            .all()
            .zip(&shapes)
            .map(|((name, _), shape)| (*name, TensorElementType::Float32, &shape[..]))
            .collect();
        let (inputs, outputs) = all.split_at(self.inputs.len());
        GraphBuilder::new(what, inputs, outputs)
    }

    /// A buffer for each, filled with something that is not all the same.
    fn buffers(&self, rows: usize) -> ort::Result<Vec<Tensor<f32>>> {
        self.all()
            .map(|&(_, length)| {
                let mut tensor = Tensor::<f32>::new(&Allocator::default(), [1, rows, length])?;
                for (index, value) in tensor.extract_tensor_mut().1.iter_mut().enumerate() {
                    *value = (index % 13) as f32 / 6.0 - 1.0;
                }
                Ok(tensor)
            })
            .collect()
    }

    fn bind(&self, session: &Session, buffers: &mut [Tensor<f32>]) -> ort::Result<IoBinding> {
        let mut binding = session.create_binding()?;
        let (inputs, outputs) = buffers.split_at_mut(self.inputs.len());
        for ((name, _), buffer) in self.inputs.iter().zip(inputs) {
            binding.bind_input(*name, buffer)?;
        }
        for ((name, _), buffer) in self.outputs.iter().zip(outputs) {
            binding.bind_output(*name, buffer)?;
        }
        Ok(binding)
    }
}
