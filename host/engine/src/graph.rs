use std::fmt::Debug;

use ort::editor::{Graph, Model, Node, ONNX_DOMAIN, Opset};
use ort::memory::Allocator;
use ort::operator::Attribute;
use ort::session::Session;
use ort::value::{
    Outlet, PrimitiveTensorElementType, Shape, SymbolicDimensions, Tensor, TensorElementType,
    ValueType,
};

use crate::error::Context;
use crate::weights::{Stored, Weights};
use crate::{Engine, EngineError};

/// The domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

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

    /// Hands the graph to ONNX Runtime, which optimises it and packs its weights.
    pub(crate) fn build(self, engine: &Engine) -> Result<Session, EngineError> {
        let what = || self.what.clone();
        let opsets = [
            Opset::new(ONNX_DOMAIN, 21).context(what)?,
            Opset::new(MICROSOFT, 1).context(what)?,
        ];
        let mut model = Model::new(opsets).context(what)?;
        model.set_graph(self.graph).context(what)?;
        model.into_session(&engine.session()?).context(what)
    }
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
