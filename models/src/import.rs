//! Importing a model from Hugging Face's layout or from a GGUF file.

mod config;
mod folder;
mod gguf;
mod matrices;
mod names;
mod source;
mod tokenizer_config;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::build::{Chat, Contents, Outline, Place, Progress, Storing};
use crate::error::ImportError;
use crate::layout::{FINAL_NORM, Layout};
use crate::manifest::{self, FileRecord, WeightFormat};
use crate::package::Package;
use crate::shape::Shape;
use crate::tokenizer::Tokenizer;

use folder::Folder;
use gguf::GgufModel;
use matrices::WeightFile;
use source::Source;

/// How to import a model.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The model's name; the destination folder's name if there is none.
    pub name: Option<String>,
    /// How attention and feed-forward matrices are stored.
    pub weights: WeightFormat,
    /// How the embedding is stored; if there is nothing here, as the other weights, but with 8 bits where those have 4.
    pub embedding: Option<WeightFormat>,
    /// How the output head is stored; if there is nothing here, as the embedding. A tied one has no format of its own.
    pub head: Option<WeightFormat>,
    /// Feed-forward neurons in a group. If there is nothing here: 32 in models of fewer than 2,048 neurons a layer,
    /// in others 128, or 256 with blocks of 256; or the largest power of two below that which pads the neurons by less than a
    /// hundredth.
    pub group_size: Option<usize>,
    /// Where the model came from, for people to read; what it was imported from if there is nothing here.
    pub source: Option<String>,
    /// The tokenizer, in Hugging Face's format; if there is nothing here, `tokenizer.json` in the folder, or one made from
    /// the GGUF file's vocabulary.
    pub tokenizer: Option<PathBuf>,
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
            head: None,
            group_size: None,
            source: None,
            tokenizer: None,
            overwrite: false,
        }
    }
}

/// Imports a model as a package: from a folder in Hugging Face's layout, or from a GGUF file. A folder has `config.json`,
/// `model.safetensors` or its parts with their index, and `tokenizer.json`; `tokenizer_config.json`,
/// `generation_config.json` and `chat_template.jinja` are read where they are there. The same source and options always
/// give the same bytes.
///
/// The package is built beside the destination and renamed into place when it is whole. Weights are read, converted and
/// written some rows at a time, so that memory does not depend on the model's size.
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
    let place = Place::new(destination, options.overwrite)?;
    let name = options.name.as_deref().unwrap_or(place.name());
    manifest::check_name(name).map_err(ImportError::Option)?;
    let (mut model, shape) = Model::open(source, options)?;
    let storing = Storing {
        weights: options.weights,
        embedding: options.embedding,
        head: options.head,
        group_size: options.group_size,
    };
    let description = (options.source.clone()).unwrap_or_else(|| model.source.description());
    let outline = Outline::new(name, shape, &storing, description)?;
    model.source.check_tensors(&known_tensors(&outline))?;
    place.fill(|dir| outline.build(&mut model, dir, progress))
}

/// The tensors that a package is made from, by their names in a package, those of each layer by its number.
fn known_tensors(outline: &Outline) -> Vec<(Option<usize>, &str)> {
    let layout = &outline.layout;
    let outer = layout.outer().map(|spec| spec.name).chain([FINAL_NORM]);
    let mut known = outer.map(|name| (None, name)).collect::<Vec<_>>();
    for layer in 0..outline.manifest.shape.layers {
        let matrices = layout.layer().into_iter().map(|spec| spec.name);
        let names = matrices.chain(layout.vectors.iter().map(|(name, _)| *name));
        known.extend(names.map(|name| (Some(layer), name)));
    }
    known
}

/// What is imported.
struct Model {
    source: Box<dyn Source>,
    /// The content of `tokenizer.json`.
    tokenizer: Vec<u8>,
    chat: Option<Chat>,
}

impl Model {
    /// Opens what is imported, and gives its shape too.
    fn open(path: &Path, options: &ImportOptions) -> Result<(Self, Shape), ImportError> {
        let source: Box<dyn Source> = match path.is_file() {
            true => Box::new(GgufModel::open(path)?),
            false => Box::new(Folder::open(path)?),
        };
        let mut shape = source.shape().clone();
        let (path, json) = match &options.tokenizer {
            Some(path) => (path.clone(), fs::read(path).map_err(ImportError::io(path))?),
            None => source.tokenizer()?,
        };
        let tokenizer = Tokenizer::from_json(&path, &json, shape.vocabulary)?;
        let model = Self {
            chat: source.chat(&tokenizer, &mut shape)?,
            tokenizer: json,
            source,
        };
        Ok((model, shape))
    }
}

impl Contents for Model {
    fn tokenizer(&self) -> Result<Vec<u8>, ImportError> {
        Ok(self.tokenizer.clone())
    }

    fn chat(&self) -> Option<Chat> {
        self.chat.clone()
    }

    fn write_outer(&mut self, outline: &Outline, path: &Path) -> Result<FileRecord, ImportError> {
        let Shape {
            width, vocabulary, ..
        } = outline.manifest.shape;
        let mut file = WeightFile::default();
        for spec in outline.layout.outer() {
            let matrix = [vocabulary, width];
            file.matrix(spec, self.source.tensor(None, spec.name, &matrix)?);
        }
        let norm = self.source.tensor(None, FINAL_NORM, &[width])?;
        file.vector(FINAL_NORM, norm);
        file.write(path)
    }

    fn write_layer(
        &mut self,
        outline: &Outline,
        layer: usize,
        path: &Path,
    ) -> Result<FileRecord, ImportError> {
        let (width, neurons) = (outline.manifest.shape.width, outline.neurons);
        let Layout {
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            ..
        } = &outline.layout;
        let tensor = |name, shape: &[usize]| self.source.tensor(Some(layer), name, shape);
        let mut file = WeightFile::default();
        for &(name, length) in &outline.layout.vectors {
            file.vector(name, tensor(name, &[length])?);
        }
        for spec in [query, key, value, output] {
            file.matrix(spec, tensor(spec.name, &[spec.rows, spec.columns])?);
        }
        for spec in [gate, up] {
            file.matrix(spec, tensor(spec.name, &[neurons, width])?);
        }
        file.columns(down, tensor(down.name, &[width, neurons])?);
        file.write(path)
    }
}

/// An error for a file of a model folder that cannot be read.
fn missing_or_io(path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => ImportError::Missing { path },
        _ => ImportError::Io { path, source },
    }
}
