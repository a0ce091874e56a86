use halo_models::Matrix;
use ort::editor::ONNX_DOMAIN;

use crate::EngineError;
use crate::graph::{GraphBuilder, Value};
use crate::weights::Weights;

/// One of the three that lead into attention: `norm(input · matrixᵀ + bias)`, where most models have neither bias nor norm.
pub(crate) struct Projection<'a> {
    /// Its values and constants are named after it.
    pub(crate) name: &'static str,
    /// `heads * head_width` × `width`.
    pub(crate) matrix: Matrix<'a>,
    /// One for each row of the matrix.
    pub(crate) bias: Option<Vec<f32>>,
    /// Gains of the RMS normalisation of every head by itself: `head_width`.
    pub(crate) norm: Option<Vec<f32>>,
}

impl Projection<'_> {
    /// Adds its nodes; `output` is `[1, rows, heads * head_width]`.
    pub(crate) fn add_to(
        self,
        graph: &mut GraphBuilder,
        input: &str,
        output: &str,
        epsilon: f32,
    ) -> Result<(), EngineError> {
        let part = |part: &str| format!("{}.{part}", self.name);
        // Each step's result is the output where no other follows.
        let sum = match self.norm {
            Some(_) => part("sum"),
            None => output.to_owned(),
        };
        let product = match self.bias {
            Some(_) => part("product"),
            None => sum.clone(),
        };
        let width = self.matrix.rows;
        graph.product(self.name, input, &product, Weights::stack(&[self.matrix])?)?;
        if let Some(bias) = self.bias {
            let constant = part("bias");
            graph.vector(&constant, &bias)?;
            graph.node("Add", ONNX_DOMAIN, &[&product, &constant], &[&sum], &[])?;
        }
        let Some(norm) = self.norm else {
            return Ok(());
        };
        let [heads, normed, gains, apart, together] =
            ["heads", "normed", "norm", "apart", "together"].map(part);
        // A zero keeps the dimension that the input has there.
        let [head_width, width] = [norm.len(), width].map(|n| n as i64);
        graph.vector(&apart, &[0, 0, width / head_width, head_width])?;
        graph.vector(&together, &[0, 0, width])?;
        graph.vector(&gains, &norm)?;
        graph.node("Reshape", ONNX_DOMAIN, &[&sum, &apart], &[&heads], &[])?;
        graph.node(
            "SimplifiedLayerNormalization",
            ONNX_DOMAIN,
            &[&heads, &gains],
            &[&normed],
            &[("epsilon", Value::Float(epsilon)), ("axis", Value::Int(-1))],
        )?;
        graph.node(
            "Reshape",
            ONNX_DOMAIN,
            &[&normed, &together],
            &[output],
            &[],
        )
    }
}
