use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType::Float32;
use pulp::Arch;

use crate::exp::exp;

/// The operator of HALO's own in the feed-forward's graphs: `silu(gate) * up`, from `[1, rows, 2 neurons]`, a row's gates before
/// its ups, to `[1, rows, neurons]`. It reads what one product for both gives as it is, and takes one pass over memory where
/// ONNX Runtime's operators take four.
pub(super) struct Gate;

impl Operator for Gate {
    type Kernel<'attr> = GateKernel;

    fn name(&self) -> &str {
        "Gate"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<GateKernel> {
        Ok(GateKernel)
    }
}

/// [`Gate`] in one graph.
pub(super) struct GateKernel;

impl Kernel for GateKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("the operator's input or output is missing");
        let input = context.input(0)?.ok_or_else(missing)?;
        let (shape, input) = input.try_extract_tensor::<f32>()?;
        let &[1, rows, values] = &shape[..] else {
            return Err(ort::Error::new("the operator's input is no rows"));
        };
        let mut output = context
            .output(0, [1, rows, values / 2])?
            .ok_or_else(missing)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let neurons = output.len() / (rows.max(1) as usize);
        if neurons == 0 || input.len() != 2 * output.len() {
            return Err(ort::Error::new("the operator's input is no gates and ups"));
        }
        Arch::new().dispatch(|| {
            let rows = input
                .chunks_exact(2 * neurons)
                .zip(output.chunks_exact_mut(neurons));
            for (row, output) in rows {
                let (gates, ups) = row.split_at(neurons);
                for ((output, gate), up) in output.iter_mut().zip(gates).zip(ups) {
                    *output = silu(*gate) * up;
                }
            }
        });
        Ok(())
    }
}

/// `x` times its sigmoid.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    let e = exp(-x.abs());
    x * if x < 0.0 { e } else { 1.0 } / (1.0 + e)
}

#[cfg(test)]
mod tests {
    use super::silu;

    #[test]
    fn agrees_with_its_definition() {
        for i in -100_000..100_000 {
            let x = i as f32 / 1000.0;
            let expected = (f64::from(x) / (1.0 + (-f64::from(x)).exp())) as f32;
            assert!(
                (silu(x) - expected).abs() <= 1e-6 * expected.abs() + 1e-30,
                "{x}"
            );
        }
        assert_eq!([f32::INFINITY, 0.0].map(silu), [f32::INFINITY, 0.0]);
        assert!(silu(f32::NAN).is_nan());
    }
}
