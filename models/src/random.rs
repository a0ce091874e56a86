//! Packages with random weights, in the shape of a model that need not be downloaded.

mod elements;
mod tokenizer;

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;

use crate::build::{Contents, Outline, Place, Progress, Storing, write_tensors};
use crate::error::ImportError;
use crate::layout::{FINAL_NORM, Part, Spec, Storage};
use crate::manifest::{FileRecord, WeightFormat};
use crate::package::Package;
use crate::shape::Shape;

use elements::Elements;

/// How to make a package with random weights.
#[derive(Clone, Debug)]
pub struct RandomOptions {
    /// How attention and feed-forward matrices are stored; embedding and head have 8 bits where those have 4.
    pub weights: WeightFormat,
    /// Feed-forward neurons in a group; if there is nothing here, as many as importing would take.
    pub group_size: Option<usize>,
    /// Other seeds give other weights.
    pub seed: u64,
    /// Replace the package at the destination, if there is one.
    pub overwrite: bool,
}

impl Default for RandomOptions {
    fn default() -> Self {
        Self {
            weights: WeightFormat::Q4 {
                block: WeightFormat::DEFAULT_BLOCK,
            },
            group_size: None,
            seed: 0,
            overwrite: false,
        }
    }
}

/// Makes a package with random weights: it writes nonsense, but at the speed of a trained model of the same shape,
/// which does not depend on the values. Activations stay as small as a trained model's. The same shape and options
/// always give the same weights.
///
/// The tokenizer has a token for every byte, those that begin and end a text by the shape, and fillers up to the
/// vocabulary. The weights are written as they are drawn, so that memory does not depend on the model's size. As when
/// importing, the package is built beside the destination and renamed into place when it is whole.
///
/// # Errors
///
/// The shape is impossible or has too small a vocabulary; the destination exists; an option cannot be; a file cannot
/// be written.
pub fn random(
    shape: &Shape,
    destination: &Path,
    options: &RandomOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Package, ImportError> {
    let place = Place::new(destination, options.overwrite)?;
    shape
        .validate()
        .map_err(|error| ImportError::Option(error.to_string()))?;
    let storing = Storing {
        weights: options.weights,
        embedding: None,
        head: None,
        group_size: options.group_size,
    };
    let source = format!("random weights, seed {}", options.seed);
    let outline = Outline::new(place.name(), shape.clone(), &storing, source)?;
    let mut weights = RandomWeights {
        tokenizer: tokenizer::for_shape(shape).map_err(ImportError::Option)?,
        random: Xoshiro256PlusPlus::seed_from_u64(options.seed),
    };
    place.fill(|dir| outline.build(&mut weights, dir, progress))
}

struct RandomWeights {
    tokenizer: Vec<u8>,
    random: Xoshiro256PlusPlus,
}

impl Contents for RandomWeights {
    fn tokenizer(&self) -> Result<Vec<u8>, ImportError> {
        Ok(self.tokenizer.clone())
    }

    fn write_outer(&mut self, outline: &Outline, path: &Path) -> Result<FileRecord, ImportError> {
        let norm = Part::vector(FINAL_NORM, outline.manifest.shape.width);
        let matrices = outline.layout.outer().flat_map(matrix);
        let norm = (norm, Elements::ones());
        self.write(path, matrices.chain([norm]).collect())
    }

    fn write_layer(
        &mut self,
        outline: &Outline,
        _: usize,
        path: &Path,
    ) -> Result<FileRecord, ImportError> {
        let vectors = outline.layout.vectors.iter().map(|&(name, length)| {
            let elements = if name.ends_with("norm") {
                Elements::ones()
            } else {
                Elements::f32((length as f32).sqrt().recip())
            };
            (Part::vector(name, length), elements)
        });
        let matrices = outline.layout.layer().into_iter().flat_map(matrix);
        self.write(path, matrices.chain(vectors).collect())
    }
}

impl RandomWeights {
    fn write(
        &mut self,
        path: &Path,
        mut tensors: Vec<(Part, Elements)>,
    ) -> Result<FileRecord, ImportError> {
        write_tensors(path, &mut tensors, |part, elements, out| {
            elements.write(part.elements(), &mut self.random, out)
        })
        .map_err(ImportError::io(path))
    }
}

/// The tensors of a matrix, and what they are filled with: weights that lie evenly between plus and minus
/// 1 / sqrt(K) for a product with K inputs, so that outputs are somewhat smaller than inputs.
fn matrix(spec: &Spec) -> Vec<(Part, Elements)> {
    // A stack of `down` is one product whose inputs are those of all groups; other stacks share their inputs.
    let inputs = match spec.stack {
        Some(groups) if spec.name == "feed_forward.down" => groups * spec.columns,
        _ => spec.columns,
    };
    let limit = (inputs as f32).sqrt().recip();
    let elements = match spec.storage {
        Storage::F32 => vec![Elements::f32(limit)],
        Storage::F16 => vec![Elements::f16(limit)],
        Storage::Quantised { bits, .. } => vec![
            Elements::bytes(),
            Elements::scales(limit, bits),
            Elements::zero_points(bits),
        ],
    };
    spec.parts().into_iter().zip(elements).collect()
}
