use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use halo_models::Matrix;
use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::memory::Allocator;
use ort::operator::{Attribute, OperatorDomain};
use ort::session::Session;
use ort::value::{
    Outlet, PrimitiveTensorElementType, Shape, SymbolicDimensions, Tensor, TensorElementType,
    ValueType,
};

use crate::error::Context;
use crate::weights::{self, Stored, Weights};
use crate::{Engine, EngineError};

/// The domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// The domain of HALO's own operators.
pub(crate) const HALO: &str = "halo";

/// The versions of the domains.
const OPSETS: &[(&str, u8)] = &[(ONNX_DOMAIN, 21), (MICROSOFT, 1), (HALO, 1)];

/// A dimension that differs from run to run.
pub(crate) const ANY: i64 = -1;

/// A graph under construction. Values are wired by name, as in ONNX itself.
pub(crate) struct GraphBuilder {
    /// What it computes, for error messages: "the attention of layer 3".
    what: String,
    graph: Graph,
}

/// An input or output: name, element type, dimensions.
pub(crate) type Port<'a> = (&'a str, TensorElementType, &'a [i64]);

impl GraphBuilder {
    pub(crate) fn new(
        what: String,
        inputs: &[Port<'_>],
        outputs: &[Port<'_>],
    ) -> Result<Self, EngineError> {
        let mut graph = Graph::new().context(|| what.clone())?;
        graph
            .set_inputs(inputs.iter().map(outlet))
            .context(|| what.clone())?;
        graph
            .set_outputs(outputs.iter().map(outlet))
            .context(|| what.clone())?;
        Ok(Self { what, graph })
    }

    /// Adds a node; it is named after its first output.
    pub(crate) fn node(
        &mut self,
        operator: &str,
        domain: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Value)],
    ) -> Result<(), EngineError> {
        let what = || format!("{} (operator {operator})", self.what);
        let attributes = attributes
            .iter()
            .map(|(name, value)| match *value {
                Value::Int(i) => Attribute::new(*name, i),
                Value::Float(f) => Attribute::new(*name, f),
            })
            .collect::<Result<Vec<_>, _>>()
            .context(what)?;
        let node =
            Node::new(operator, domain, outputs[0], inputs, outputs, attributes).context(what)?;
        self.graph.add_node(node).context(what)
    }

    /// Adds a constant vector.
    pub(crate) fn vector<T>(&mut self, name: &str, values: &[T]) -> Result<(), EngineError>
    where
        T: PrimitiveTensorElementType + Debug + Copy + 'static,
    {
        let mut tensor = Tensor::<T>::new(&Allocator::default(), [values.len()])
            .context(|| format!("{} (constant {name})", self.what))?;
        tensor.extract_tensor_mut().1.copy_from_slice(values);
        self.constant(name, tensor)
    }

    /// Adds a constant. ONNX Runtime takes the tensor itself, and lets go of it when it has packed what is in it; only very
    /// small ones, which may be the shapes of others, does it insist on copying into the graph.
    fn constant<T>(&mut self, name: &str, tensor: Tensor<T>) -> Result<(), EngineError>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
    {
        let bytes = size_of_val(tensor.extract_tensor().1);
        self.graph
            .add_initializer(name, tensor, bytes >= 128)
            .context(|| format!("{} (constant {name})", self.what))
    }

    /// `output = input · weightsᵀ`: `input` is `[…, columns]`, `output` `[…, rows]`.
    pub(crate) fn product(
        &mut self,
        name: &str,
        input: &str,
        output: &str,
        weights: Weights,
    ) -> Result<(), EngineError> {
        let (rows, columns) = (weights.rows, weights.columns);
        match weights.stored {
            Stored::Float(transposed) => {
                self.constant(name, transposed)?;
                self.node("MatMul", ONNX_DOMAIN, &[input, name], &[output], &[])
            }
            Stored::Quantised {
                block,
                planes,
                data,
                scales,
                zero_points,
            } => {
                let [data_name, scales_name, zeros_name, input_name] =
                    ["data", "scales", "zero_points", "input"].map(|part| format!("{name}.{part}"));
                self.constant(&data_name, data)?;
                self.constant(&scales_name, scales)?;
                self.constant(&zeros_name, zero_points)?;
                // Each plane meets the same input, and the product along all of them adds up what they give.
                let input = if planes == 1 {
                    input
                } else {
                    self.node(
                        "Concat",
                        ONNX_DOMAIN,
                        &vec![input; planes],
                        &[&input_name],
                        &[("axis", Value::Int(-1))],
                    )?;
                    &input_name
                };
                self.node(
                    "MatMulNBits",
                    MICROSOFT,
                    &[input, &data_name, &scales_name, &zeros_name],
                    &[output],
                    &[
                        ("K", Value::Int((planes * columns) as i64)),
                        ("N", Value::Int(rows as i64)),
                        ("bits", Value::Int(4)),
                        ("block_size", Value::Int(block as i64)),
                        // 8-bit activations: three times as fast as dequantising to floats.
                        ("accuracy_level", Value::Int(4)),
                    ],
                )
            }
        }
    }

    /// `output = input · matrixᵀ` of several matrices, the outputs after one another. One product for all whose weights are
    /// stored alike, which is faster than one for each.
    pub(crate) fn stacked(
        &mut self,
        name: &str,
        input: &str,
        output: &str,
        matrices: &[Matrix<'_>],
    ) -> Result<(), EngineError> {
        let alike: Vec<_> = matrices.chunk_by(weights::alike).collect();
        if let [all] = alike[..] {
            return self.product(name, input, output, Weights::stack(all)?);
        }
        let mut parts = Vec::new();
        for (index, matrices) in alike.into_iter().enumerate() {
            let part = format!("{name}.{index}");
            let product = format!("{part}.product");
            self.product(&part, input, &product, Weights::stack(matrices)?)?;
            parts.push(product);
        }
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        self.node(
            "Concat",
            ONNX_DOMAIN,
            &parts,
            &[output],
            &[("axis", Value::Int(-1))],
        )
    }

    /// Hands the graph to ONNX Runtime, which optimises it and packs its weights. `operators` are those of [`HALO`] in it.
    pub(crate) fn build(
        self,
        engine: &Engine,
        operators: Option<Arc<OperatorDomain>>,
    ) -> Result<Session, EngineError> {
        let what = || self.what.clone();
        let opsets = OPSETS
            .iter()
            .map(|&(domain, version)| Opset::new(domain, version.into()))
            .collect::<Result<Vec<_>, _>>()
            .context(what)?;
        let mut model = Model::new(opsets).context(what)?;
        model.set_graph(self.graph).context(what)?;
        let Some(operators) = operators else {
            return model.into_session(&engine.session()?).context(what);
        };
        // ONNX Runtime 1.31 looks for operators that are not its own when it reads a model, but not when it takes one from the
        // model editor. So it reads an empty one, which is then replaced.
        let mut options = engine.session()?.with_operators(operators).context(what)?;
        // Nor does it look whether another thread is just making the domain known.
        static REGISTERING: Mutex<()> = Mutex::new(());
        let registering = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);
        let session = options.edit_from_memory(&empty_model());
        drop(registering);
        let mut session = session.context(what)?;
        session.apply_model(&model).context(what)?;
        session.into_session().context(what)
    }
}

/// A model without nodes, as ONNX's protocol buffers have it: a version, a graph that has a name, and the opsets.
fn empty_model() -> Vec<u8> {
    let mut model = vec![0x08, 10, 0x3a, 3, 0x12, 1, b'g'];
    for (domain, version) in OPSETS {
        let length = domain.len() as u8;
        model.extend([0x42, length + 4, 0x0a, length]);
        model.extend(domain.as_bytes());
        model.extend([0x10, *version]);
    }
    model
}

/// An operator's attribute.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    Int(i64),
    Float(f32),
}

fn outlet(&(name, ty, dimensions): &Port<'_>) -> Outlet {
    Outlet::new(
        name,
        ValueType::Tensor {
            ty,
            shape: Shape::new(dimensions.iter().copied()),
            dimension_symbols: SymbolicDimensions::empty(dimensions.len()),
        },
    )
}
