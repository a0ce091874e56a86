//! The weights of a Hugging Face model folder, in one file or in parts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use serde::Deserialize;

use super::names;
use crate::build::Outline;
use crate::error::ImportError;
use crate::tensors::{TensorError, TensorFile, f32_values};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights of a model, mapped into memory.
#[derive(Debug)]
pub(super) struct Source {
    /// The file that says which tensors there are, for errors.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Which of the files has a tensor.
    index: HashMap<String, usize>,
}

/// A tensor read from a source.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) values: Vec<f32>,
    /// Where it came from, for errors.
    pub(super) path: PathBuf,
    pub(super) tensor: String,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Source {
    /// Opens `model.safetensors`, or the parts that `model.safetensors.index.json` lists.
    pub(super) fn open(dir: &Path) -> Result<Self, ImportError> {
        let (whole, index) = (dir.join(WHOLE), dir.join(INDEX));
        if !whole.exists() && index.exists() {
            return Self::open_parts(dir, index);
        }
        if !whole.exists() {
            return Err(ImportError::Missing { path: whole });
        }
        let file = TensorFile::open(&whole)?;
        let index = file
            .tensors()
            .map(|(name, _)| (name.to_owned(), 0))
            .collect();
        let path = whole;
        let files = vec![file];
        Ok(Self { path, files, index })
    }

    fn open_parts(dir: &Path, path: PathBuf) -> Result<Self, ImportError> {
        let invalid = |reason: String| ImportError::Config {
            path: path.clone(),
            reason,
        };
        let bytes = fs::read(&path).map_err(ImportError::io(&path))?;
        let parsed: Index =
            serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let mut files = Vec::new();
        let mut numbers = HashMap::new();
        let mut index = HashMap::new();
        for (tensor, name) in parsed.weight_map {
            let number = match numbers.get(&name) {
                Some(number) => *number,
                None => {
                    // A part lies in the same folder; nothing else is opened on an index's word.
                    if Path::new(&name).file_name() != Some(name.as_ref())
                        || !name.ends_with(".safetensors")
                    {
                        return Err(invalid(format!(
                            "`{}` is not the name of a part",
                            name.escape_debug()
                        )));
                    }
                    let part = dir.join(&name);
                    if !part.exists() {
                        return Err(ImportError::Missing { path: part });
                    }
                    files.push(TensorFile::open(&part)?);
                    numbers.insert(name, files.len() - 1);
                    files.len() - 1
                }
            };
            index.insert(tensor, number);
        }
        Ok(Self { path, files, index })
    }

    /// Checks that the layers have no tensor that would be left out: with a bias, say, that the configuration does not
    /// tell of, the model would compute something else.
    pub(super) fn check_layers(&self, outline: &Outline) -> Result<(), ImportError> {
        let layout = &outline.layout;
        let matrices = layout.layer().into_iter().map(|spec| spec.name);
        let names = matrices.chain(layout.vectors.iter().map(|(name, _)| *name));
        let names = names.map(names::of_layer).collect::<HashSet<_>>();
        let left_out = |tensor: &&String| {
            let Some(rest) = tensor.strip_prefix("model.layers.") else {
                return false;
            };
            // Older files hold the frequencies of rotary positions, which follow from the configuration.
            let known = |(layer, name): (&str, &str)| {
                let layer = layer.parse::<usize>();
                let exists = layer.is_ok_and(|layer| layer < outline.manifest.shape.layers);
                exists && (names.contains(name) || name == "self_attn.rotary_emb.inv_freq")
            };
            !rest.split_once('.').is_some_and(known)
        };
        match self.index.keys().filter(left_out).min() {
            None => Ok(()),
            Some(tensor) => Err(ImportError::Unsupported {
                path: self.path.clone(),
                what: format!(
                    "a tensor `{}`, which config.json does not tell of",
                    tensor.escape_debug()
                ),
            }),
        }
    }

    /// Reads a tensor of one shape in f32 and checks that every value is finite.
    pub(super) fn read(&self, name: &str, shape: &[usize]) -> Result<Weights, TensorError> {
        let Some(number) = self.index.get(name) else {
            return Err(TensorError::Missing {
                path: self.path.clone(),
                tensor: name.into(),
            });
        };
        let file = &self.files[*number];
        let tensor = file.expect(name, &[Dtype::F32, Dtype::F16, Dtype::BF16], shape)?;
        let bytes = &file.bytes()[tensor.range.clone()];
        let values: Vec<f32> = match tensor.dtype {
            Dtype::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                .collect(),
            Dtype::BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                .collect(),
            _ => f32_values(bytes),
        };
        let (path, tensor) = (file.path().to_path_buf(), name.to_owned());
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(TensorError::NotFinite {
                path,
                tensor,
                index,
            }),
            None => Ok(Weights {
                values,
                path,
                tensor,
            }),
        }
    }
}
