//! Building a package, file by file, whatever its weights come from.

mod place;
mod weight_file;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub(crate) use place::Place;
pub(crate) use weight_file::{PieceWriter, write_tensors};

use crate::chat::ChatTokens;
use crate::digest;
use crate::error::ImportError;
use crate::layout::Layout;
use crate::manifest::{
    self, CHAT_TEMPLATE, EMBEDDING, FileRecord, MANIFEST, Manifest, Quantisation, TOKENIZER,
    WeightFormat,
};
use crate::shape::Shape;

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Weight files written.
    pub done: usize,
    /// Weight files in all: the layers and one more.
    pub total: usize,
}

/// What a package's files are made from.
pub(crate) trait Contents {
    /// The content of `tokenizer.json`.
    fn tokenizer(&self) -> Result<Vec<u8>, ImportError>;
    /// How conversations are written, if the model was trained for any.
    fn chat(&self) -> Option<Chat> {
        None
    }
    /// Writes embedding, final norm and head to a file.
    fn write_outer(&mut self, outline: &Outline, path: &Path) -> Result<FileRecord, ImportError>;
    /// Writes a layer to a file.
    fn write_layer(
        &mut self,
        outline: &Outline,
        layer: usize,
        path: &Path,
    ) -> Result<FileRecord, ImportError>;
}

/// How conversations are written.
#[derive(Clone)]
pub(crate) struct Chat {
    /// The content of `chat_template.jinja`.
    pub(crate) template: String,
    pub(crate) tokens: ChatTokens,
}

/// What a package will be: everything that can be checked before writing.
pub(crate) struct Outline {
    /// Complete but for the files.
    pub(crate) manifest: Manifest,
    pub(crate) layout: Layout,
    /// Feed-forward neurons that the model has. The shape may have more, to fill the last group: their weights are zero,
    /// so they contribute nothing.
    pub(crate) neurons: usize,
}

/// How weights are to be stored.
pub(crate) struct Storing {
    /// Attention and feed-forward matrices.
    pub(crate) weights: WeightFormat,
    /// The embedding; if there is nothing here, as the other weights, but with 8 bits where those have 4.
    pub(crate) embedding: Option<WeightFormat>,
    /// The head; if there is nothing here, as the embedding.
    pub(crate) head: Option<WeightFormat>,
    /// If there is nothing here, one that suits the model.
    pub(crate) group_size: Option<usize>,
}

impl Outline {
    /// `shape` has been validated.
    pub(crate) fn new(
        name: &str,
        mut shape: Shape,
        storing: &Storing,
        source: String,
    ) -> Result<Self, ImportError> {
        manifest::check_name(name).map_err(ImportError::Option)?;
        let neurons = shape.feed_forward;
        let group_size = match storing.group_size {
            Some(size @ 1..) if size <= neurons => size,
            None => default_group_size(neurons, storing.weights),
            Some(size) => {
                return Err(ImportError::Option(format!(
                    "{neurons} feed-forward neurons cannot be divided into groups of {size}"
                )));
            }
        };
        shape.feed_forward = neurons.next_multiple_of(group_size);
        let embedding = storing.embedding.unwrap_or(match storing.weights {
            WeightFormat::Q4 { block } => WeightFormat::Q8 { block },
            format => format,
        });
        let quantisation = Quantisation {
            weights: storing.weights,
            embedding,
            head: storing.head.filter(|head| *head != embedding),
        };
        let layout = Layout::new(&shape, group_size, quantisation).map_err(ImportError::Option)?;
        let manifest = Manifest {
            format: Manifest::FORMAT,
            name: name.into(),
            architecture: Manifest::ARCHITECTURE.into(),
            shape,
            group_size,
            quantisation,
            chat: None,
            source,
            files: BTreeMap::new(),
        };
        Ok(Self {
            manifest,
            layout,
            neurons,
        })
    }

    /// Writes the package's files into a folder, the manifest last.
    pub(crate) fn build(
        mut self,
        contents: &mut dyn Contents,
        dir: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImportError> {
        let layers = self.manifest.shape.layers;
        let mut report = |done| {
            let total = layers + 1;
            progress(Progress { done, total });
        };
        report(0);
        self.write_text(dir, TOKENIZER, &contents.tokenizer()?)?;
        if let Some(Chat { template, tokens }) = contents.chat() {
            self.write_text(dir, CHAT_TEMPLATE, template.as_bytes())?;
            self.manifest.chat = Some(tokens);
        }
        let record = contents.write_outer(&self, &dir.join(EMBEDDING))?;
        self.manifest.files.insert(EMBEDDING.into(), record);
        report(1);
        for layer in 0..layers {
            let name = manifest::layer_file(layer);
            let record = contents.write_layer(&self, layer, &dir.join(&name))?;
            self.manifest.files.insert(name, record);
            report(layer + 2);
        }
        let path = dir.join(MANIFEST);
        fs::write(&path, self.manifest.to_bytes()).map_err(ImportError::io(&path))
    }

    fn write_text(&mut self, dir: &Path, name: &str, content: &[u8]) -> Result<(), ImportError> {
        let path = dir.join(name);
        fs::write(&path, content).map_err(ImportError::io(&path))?;
        let record = FileRecord {
            bytes: content.len() as u64,
            sha256: digest::of_bytes(content),
        };
        self.manifest.files.insert(name.into(), record);
        Ok(())
    }
}

/// The group size to use when none is asked for: the largest that suits the model and pads it by less than a hundredth. Blocks
/// do not go beyond a group, so that large ones need groups as large.
fn default_group_size(neurons: usize, weights: WeightFormat) -> usize {
    let largest = match weights {
        _ if neurons < 2048 => 32,
        WeightFormat::Q4 { block: 256 } | WeightFormat::Q8 { block: 256 } => 256,
        _ => 128,
    };
    let padding = |size: usize| neurons.next_multiple_of(size) - neurons;
    [256, 128, 64, 32]
        .into_iter()
        .find(|size| *size <= largest && padding(*size) * 100 < neurons)
        .unwrap_or(16)
}
