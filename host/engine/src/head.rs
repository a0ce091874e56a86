use std::ops::Range;

use halo_models::Package;
use ort::editor::ONNX_DOMAIN;
use ort::session::Session;
use ort::value::{TensorElementType, TensorRef};

use crate::error::Context;
use crate::graph::{ANY, GraphBuilder, Value};
use crate::slowdown::Slowdown;
use crate::weights::Weights;
use crate::{Engine, EngineError};

/// The final norm and the output head, or a slice of it: from the residual stream to the logits of some tokens, or of all.
#[derive(Debug)]
pub struct Head {
    width: usize,
    tokens: usize,
    session: Session,
    slowdown: Slowdown,
}

impl Head {
    /// Builds the graph.
    ///
    /// # Errors
    ///
    /// ONNX Runtime refuses it, or the disk does not give the weights.
    pub fn load(engine: &Engine, package: &Package) -> Result<Self, EngineError> {
        Self::load_slice(engine, package, 0..package.shape().vocabulary)
    }

    /// Builds the graph for a slice of the vocabulary. See [`Likeliest`](crate::Likeliest) for what slices tell together.
    ///
    /// # Errors
    ///
    /// The slice is empty or beyond the vocabulary, or ONNX Runtime refuses the graph.
    pub fn load_slice(
        engine: &Engine,
        package: &Package,
        tokens: Range<usize>,
    ) -> Result<Self, EngineError> {
        use TensorElementType::Float32;
        let shape = package.shape();
        if tokens.is_empty() || tokens.end > shape.vocabulary {
            return Err(EngineError::Mismatch {
                what: "end of a slice of the vocabulary",
                expected: shape.vocabulary,
                got: tokens.end,
            });
        }
        let count = tokens.len();
        let mut graph = GraphBuilder::new(
            "the output head".into(),
            &[("x", Float32, &[1, ANY, shape.width as i64])],
            &[("logits", Float32, &[1, ANY, count as i64])],
        )?;
        graph.vector("norm", &package.final_norm())?;
        let attributes = [
            ("epsilon", Value::Float(shape.norm_epsilon)),
            ("axis", Value::Int(-1)),
        ];
        graph.node(
            "SimplifiedLayerNormalization",
            ONNX_DOMAIN,
            &["x", "norm"],
            &["y"],
            &attributes,
        )?;
        let region = package.head_region();
        region.read()?;
        let weights = package.head().slice(tokens);
        graph.product("head", "y", "logits", Weights::stack(&[weights])?)?;
        let session = graph.build(engine, None)?;
        region.release();
        Ok(Self {
            width: shape.width,
            tokens: count,
            session,
            slowdown: engine.slowdown(),
        })
    }

    /// Logits of the rows of `hidden` (`[rows, width]`, the residual stream after the last layer): `[rows, tokens]`.
    ///
    /// # Errors
    ///
    /// The buffer does not fit, or ONNX Runtime fails.
    pub fn run(&mut self, hidden: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        let rows = hidden.len() / self.width;
        if hidden.len() != rows * self.width || rows == 0 {
            return Err(EngineError::Mismatch {
                what: "values of the head's rows",
                expected: rows * self.width,
                got: hidden.len(),
            });
        }
        let what = || "the output head".to_owned();
        let input = TensorRef::from_array_view(([1, rows, self.width], hidden)).context(what)?;
        let session = &mut self.session;
        let outputs = self
            .slowdown
            .run(|| session.run(ort::inputs!["x" => input]));
        let outputs = outputs.context(what)?;
        let (_, values) = outputs["logits"]
            .try_extract_tensor::<f32>()
            .context(what)?;
        if values.len() != rows * self.tokens {
            return Err(EngineError::Mismatch {
                what: "logits",
                expected: rows * self.tokens,
                got: values.len(),
            });
        }
        logits.clear();
        logits.extend_from_slice(values);
        Ok(())
    }
}
