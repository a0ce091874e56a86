//! Importing a model from Hugging Face's layout.

mod config;
mod source;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic::temporary_folder;
use crate::digest;
use crate::error::ImportError;
use crate::layout::{ATTENTION_NORM, FEED_FORWARD_NORM, FINAL_NORM, Layout};
use crate::manifest::{
    self, EMBEDDING, FileRecord, MANIFEST, Manifest, Quantisation, TOKENIZER, WeightFormat,
};
use crate::package::Package;
use crate::shape::Shape;
use crate::tokenizer::Tokenizer;

use source::Source;
use write::WeightFile;

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
            source: "a model folder in Hugging Face's layout".into(),
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
    let place = Place::new(destination, options.overwrite)?;
    let plan = Plan::new(source, &place.name, options)?;
    fs::create_dir_all(&place.parent).map_err(ImportError::io(&place.parent))?;
    let building = temporary_folder(&place.parent).map_err(ImportError::io(&place.parent))?;
    plan.build(building.path(), progress)?;
    // What is put in place has been opened once.
    drop(Package::open(building.path())?);
    place.take(building.path())?;
    Ok(Package::open(destination)?)
}

/// Where a package goes.
struct Place {
    destination: PathBuf,
    parent: PathBuf,
    /// The folder's name.
    name: String,
    /// There is a package that will be replaced.
    replaces: bool,
}

impl Place {
    fn new(destination: &Path, overwrite: bool) -> Result<Self, ImportError> {
        let no_name = || {
            let what = destination.display();
            ImportError::Option(format!(
                "{what} does not name a folder; give the package's folder a name"
            ))
        };
        let name = destination.file_name().ok_or_else(no_name)?;
        let replaces = destination.symlink_metadata().is_ok();
        if replaces && !destination.join(MANIFEST).is_file() {
            let path = destination.into();
            return Err(ImportError::NotAPackage { path });
        }
        if replaces && !overwrite {
            let path = destination.into();
            return Err(ImportError::Exists { path });
        }
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
            _ => PathBuf::from("."),
        };
        Ok(Self {
            destination: destination.into(),
            parent,
            name: name.to_string_lossy().into_owned(),
            replaces,
        })
    }

    /// Moves a finished package here. Files of the old folder that are no part of a package, a README for instance,
    /// stay.
    fn take(&self, package: &Path) -> Result<(), ImportError> {
        let destination = &self.destination;
        let error = || ImportError::io(destination);
        if !self.replaces {
            return fs::rename(package, destination).map_err(error());
        }
        let aside = temporary_folder(&self.parent).map_err(error())?;
        let old = aside.path().join("old");
        fs::rename(destination, &old).map_err(error())?;
        if let Err(failure) = fs::rename(package, destination) {
            fs::rename(&old, destination).map_err(error())?;
            return Err(error()(failure));
        }
        for entry in fs::read_dir(&old).map_err(error())? {
            let name = entry.map_err(error())?.file_name();
            if !name.to_str().is_some_and(manifest::is_package_file) {
                fs::rename(old.join(&name), destination.join(&name)).map_err(error())?;
            }
        }
        Ok(())
    }
}

/// What will be written: everything about the source and the options that can be checked before writing.
struct Plan {
    source: Source,
    tokenizer: PathBuf,
    layout: Layout,
    /// Complete but for the files.
    manifest: Manifest,
}

impl Plan {
    fn new(dir: &Path, name: &str, options: &ImportOptions) -> Result<Self, ImportError> {
        let name = options.name.as_deref().unwrap_or(name);
        manifest::check_name(name).map_err(ImportError::Option)?;
        let shape = config::read(&dir.join("config.json"))?;
        let group_size = match options.group_size {
            Some(size) => size,
            None => default_group_size(shape.feed_forward)?,
        };
        let embedding = match options.weights {
            WeightFormat::F32 => WeightFormat::F32,
            _ => WeightFormat::F16,
        };
        let quantisation = Quantisation {
            weights: options.weights,
            embedding: options.embedding.unwrap_or(embedding),
        };
        let layout = Layout::new(&shape, group_size, quantisation).map_err(ImportError::Option)?;
        let source = Source::open(dir)?;
        let tokenizer = dir.join(TOKENIZER);
        if !tokenizer.exists() {
            return Err(ImportError::Missing { path: tokenizer });
        }
        Tokenizer::open(&tokenizer, shape.vocabulary)?;
        let manifest = Manifest {
            format: Manifest::FORMAT,
            name: name.into(),
            architecture: Manifest::ARCHITECTURE.into(),
            shape,
            group_size,
            quantisation,
            source: options.source.clone(),
            files: BTreeMap::new(),
        };
        Ok(Self {
            source,
            tokenizer,
            layout,
            manifest,
        })
    }

    /// Writes the package's files into a folder, the manifest last.
    fn build(mut self, dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<(), ImportError> {
        let layers = self.manifest.shape.layers;
        let mut report = |done| {
            let total = layers + 1;
            progress(Progress { done, total });
        };
        report(0);
        let tokenizer = fs::read(&self.tokenizer).map_err(ImportError::io(&self.tokenizer))?;
        let path = dir.join(TOKENIZER);
        fs::write(&path, tokenizer).map_err(ImportError::io(&path))?;
        self.record(dir, TOKENIZER.into())?;
        self.outer()?.write(&dir.join(EMBEDDING))?;
        self.record(dir, EMBEDDING.into())?;
        report(1);
        for layer in 0..layers {
            let name = manifest::layer_file(layer);
            self.layer(layer)?.write(&dir.join(&name))?;
            self.record(dir, name)?;
            report(layer + 2);
        }
        let path = dir.join(MANIFEST);
        fs::write(&path, self.manifest.to_bytes()).map_err(ImportError::io(&path))
    }

    /// Puts a file that has been written on the manifest's list.
    fn record(&mut self, dir: &Path, name: String) -> Result<(), ImportError> {
        let path = dir.join(&name);
        let (sha256, bytes) = digest::of_file(&path, |_| ()).map_err(ImportError::io(&path))?;
        self.manifest
            .files
            .insert(name, FileRecord { bytes, sha256 });
        Ok(())
    }

    /// Embedding, final norm and head.
    fn outer(&self) -> Result<WeightFile, ImportError> {
        let Shape {
            width, vocabulary, ..
        } = self.manifest.shape;
        let mut file = WeightFile::default();
        let matrix = [vocabulary, width];
        file.matrix(
            &self.layout.embedding,
            &self.source.read("model.embed_tokens.weight", &matrix)?,
        )?;
        if let Some(head) = &self.layout.head {
            file.matrix(head, &self.source.read("lm_head.weight", &matrix)?)?;
        }
        file.vector(
            FINAL_NORM,
            &self.source.read("model.norm.weight", &[width])?,
        );
        Ok(file)
    }

    fn layer(&self, layer: usize) -> Result<WeightFile, ImportError> {
        let Shape {
            width,
            feed_forward,
            ..
        } = self.manifest.shape;
        let Layout {
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            ..
        } = &self.layout;
        let read = |name: &str, shape: &[usize]| {
            self.source
                .read(&format!("model.layers.{layer}.{name}.weight"), shape)
        };
        let mut file = WeightFile::default();
        file.vector(ATTENTION_NORM, &read("input_layernorm", &[width])?);
        file.vector(
            FEED_FORWARD_NORM,
            &read("post_attention_layernorm", &[width])?,
        );
        for (name, spec) in [
            ("q_proj", query),
            ("k_proj", key),
            ("v_proj", value),
            ("o_proj", output),
        ] {
            let weights = read(&format!("self_attn.{name}"), &[spec.rows, spec.columns])?;
            file.matrix(spec, &weights)?;
        }
        // Groups are runs of rows here, so the stack is the matrix as it is.
        file.matrix(gate, &read("mlp.gate_proj", &[feed_forward, width])?)?;
        file.matrix(up, &read("mlp.up_proj", &[feed_forward, width])?)?;
        file.columns(down, read("mlp.down_proj", &[width, feed_forward])?)?;
        Ok(file)
    }
}

/// The group size to use when none is asked for.
fn default_group_size(feed_forward: usize) -> Result<usize, ImportError> {
    let largest = if feed_forward < 2048 { 32 } else { 128 };
    [128, 64, 32, 16]
        .into_iter()
        .find(|size| *size <= largest && feed_forward.is_multiple_of(*size))
        .ok_or_else(|| {
            ImportError::Option(format!(
                "{feed_forward} feed-forward neurons cannot be divided into groups of 128, 64, 32 or 16; choose a group size"
            ))
        })
}

/// An error for a file of a model folder that cannot be read.
fn missing_or_io(path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        io::ErrorKind::NotFound => ImportError::Missing { path },
        _ => ImportError::Io { path, source },
    }
}
