use halo_models::Package;
use nalgebra::{DMatrix, DMatrixView};

/// Norms of neuron groups' contributions to the residual stream, from the neurons' activations.
///
/// Group `g` contributes `W_g h_g`: its columns of the down projection times its activations. The norm's square is
/// `h_gᵀ (W_gᵀ W_g) h_g`, so with the Gram matrices at hand it costs `group_size²` products a row, not `width * group_size`.
#[derive(Debug)]
pub(crate) struct Contributions {
    groups: usize,
    group_size: usize,
    /// `W_gᵀ W_g` of every group, layer by layer.
    grams: Vec<DMatrix<f32>>,
}

impl Contributions {
    /// Reads the down projections.
    pub(crate) fn new(package: &Package) -> Self {
        let (groups, group_size) = (package.groups(), package.group_size());
        let layers = 0..package.shape().layers;
        let grams = layers
            .flat_map(|layer| (0..groups).map(move |group| (layer, group)))
            .map(|(layer, group)| {
                let down = package.group(layer, group).down.dequantise();
                let down = down.iter().copied().map(f64::from);
                // Row-major read as column-major is the transpose.
                let transposed = DMatrix::from_iterator(group_size, package.shape().width, down);
                (&transposed * transposed.transpose()).cast::<f32>()
            })
            .collect();
        Self {
            groups,
            group_size,
            grams,
        }
    }

    /// Norms of all groups' contributions: `[rows, groups]`, from the activations of all groups, `[rows, groups * group_size]`.
    pub(crate) fn norms(&self, layer: usize, activations: &[f32], norms: &mut Vec<f32>) {
        let neurons = self.groups * self.group_size;
        let rows = activations.len() / neurons;
        let activations = DMatrixView::from_slice(activations, neurons, rows);
        let mut product = DMatrix::zeros(self.group_size, rows);
        norms.clear();
        norms.resize(rows * self.groups, 0.0);
        for group in 0..self.groups {
            let own = activations.rows(group * self.group_size, self.group_size);
            product.gemm(1.0, &self.grams[layer * self.groups + group], &own, 0.0);
            let pairs = own.column_iter().zip(product.column_iter());
            for (row, (h, gh)) in pairs.enumerate() {
                // Rounding can leave a hair below zero where there is nothing.
                norms[row * self.groups + group] = h.dot(&gh).max(0.0).sqrt();
            }
        }
    }
}
