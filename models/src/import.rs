//! Importing a model from Hugging Face's layout.

mod config;
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
use crate::manifest::{self, FileRecord, TOKENIZER, WeightFormat};
use crate::package::Package;
use crate::shape::Shape;
use crate::tokenizer::Tokenizer;

use matrices::WeightFile;
use source::Source;

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
    /// 128 in others, or the largest of 64, 32 and 16 below that which pads the neurons by less than a hundredth.
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
            source: "a model folder in Hugging Face's layout".into(),
            overwrite: false,
        }
    }
}

/// Imports a model folder in Hugging Face's layout (`config.json`, `model.safetensors` or its parts with their index,
/// `tokenizer.json`) as a package. `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja` are read
/// where they are there. The same source and options always give the same bytes.
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
    let place = Place::new(destination, options.overwrite)?;
    let name = options.name.as_deref().unwrap_or(place.name());
    manifest::check_name(name).map_err(ImportError::Option)?;
    let mut shape = config::read(&source.join("config.json"))?;
    let mut model = ModelFolder::open(source, &mut shape)?;
    let storing = Storing {
        weights: options.weights,
        embedding: options.embedding,
        group_size: options.group_size,
    };
    let outline = Outline::new(name, shape, &storing, options.source.clone())?;
    model.weights.check_layers(&outline)?;
    place.fill(|dir| outline.build(&mut model, dir, progress))
}

/// A model folder in Hugging Face's layout.
struct ModelFolder {
    weights: Source,
    tokenizer: PathBuf,
    chat: Option<Chat>,
}

impl ModelFolder {
    /// Completes the shape's special tokens.
    fn open(dir: &Path, shape: &mut Shape) -> Result<Self, ImportError> {
        let weights = Source::open(dir)?;
        let path = dir.join(TOKENIZER);
        if !path.exists() {
            return Err(ImportError::Missing { path });
        }
        let tokenizer = Tokenizer::open(&path, shape.vocabulary)?;
        let chat = tokenizer_config::read(dir, &tokenizer, shape)?;
        Ok(Self {
            weights,
            tokenizer: path,
            chat,
        })
    }
}

impl Contents for ModelFolder {
    fn tokenizer(&self) -> Result<Vec<u8>, ImportError> {
        fs::read(&self.tokenizer).map_err(ImportError::io(&self.tokenizer))
    }

    fn chat(&self) -> Option<Chat> {
        self.chat.clone()
    }

    fn write_outer(&mut self, outline: &Outline, path: &Path) -> Result<FileRecord, ImportError> {
        let Shape {
            width, vocabulary, ..
        } = outline.manifest.shape;
        let mut file = WeightFile::default();
        let matrix = [vocabulary, width];
        file.matrix(
            &outline.layout.embedding,
            &self.weights.read("model.embed_tokens.weight", &matrix)?,
        )?;
        if let Some(head) = &outline.layout.head {
            file.matrix(head, &self.weights.read("lm_head.weight", &matrix)?)?;
        }
        file.vector(
            FINAL_NORM,
            &self.weights.read("model.norm.weight", &[width])?,
        );
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
        let read = |name: &str, shape: &[usize]| {
            let tensor = format!("model.layers.{layer}.{}", names::of_layer(name));
            self.weights.read(&tensor, shape)
        };
        let mut file = WeightFile::default();
        for &(name, length) in &outline.layout.vectors {
            file.vector(name, &read(name, &[length])?);
        }
        for spec in [query, key, value, output] {
            file.matrix(spec, &read(spec.name, &[spec.rows, spec.columns])?)?;
        }
        for spec in [gate, up] {
            file.rows(spec, read(spec.name, &[neurons, width])?)?;
        }
        file.columns(down, read(down.name, &[width, neurons])?)?;
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
