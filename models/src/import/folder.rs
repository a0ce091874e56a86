//! A model folder in Hugging Face's layout.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;

use super::source::{RowOrder, Source, SourceTensor, rows_and_columns};
use super::{config, names, tokenizer_config};
use crate::build::Chat;
use crate::error::ImportError;
use crate::gguf::Encoding;
use crate::manifest::TOKENIZER;
use crate::shape::Shape;
use crate::tensors::{TensorError, TensorFile};
use crate::tokenizer::Tokenizer;

const CONFIG: &str = "config.json";
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model folder: `config.json`, the weights in one file or in parts, mapped into memory, and `tokenizer.json`.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    shape: Shape,
    /// The file that says which tensors there are, for errors.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Which of the files has a tensor.
    index: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Folder {
    /// Opens `model.safetensors`, or the parts that `model.safetensors.index.json` lists.
    pub(super) fn open(dir: &Path) -> Result<Self, ImportError> {
        let shape = config::read(&dir.join(CONFIG))?;
        let (whole, index) = (dir.join(WHOLE), dir.join(INDEX));
        if !whole.exists() && index.exists() {
            return Self::open_parts(dir, shape, index);
        }
        if !whole.exists() {
            return Err(ImportError::Missing { path: whole });
        }
        let file = TensorFile::open(&whole)?;
        let index = file
            .tensors()
            .map(|(name, _)| (name.to_owned(), 0))
            .collect();
        Ok(Self {
            dir: dir.into(),
            shape,
            path: whole,
            files: vec![file],
            index,
        })
    }

    fn open_parts(dir: &Path, shape: Shape, path: PathBuf) -> Result<Self, ImportError> {
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
        Ok(Self {
            dir: dir.into(),
            shape,
            path,
            files,
            index,
        })
    }
}

impl Source for Folder {
    fn description(&self) -> String {
        "a model folder in Hugging Face's layout".into()
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn tokenizer(&self) -> Result<(PathBuf, Vec<u8>), ImportError> {
        let path = self.dir.join(TOKENIZER);
        let json = fs::read(&path).map_err(super::missing_or_io(&path))?;
        Ok((path, json))
    }

    fn chat(&self, tokenizer: &Tokenizer, shape: &mut Shape) -> Result<Option<Chat>, ImportError> {
        tokenizer_config::read(&self.dir, tokenizer, shape)
    }

    /// Outside the layers there may be anything.
    fn check_tensors(&self, known: &[(Option<usize>, &str)]) -> Result<(), ImportError> {
        let names = known
            .iter()
            .map(|(layer, name)| names::hugging_face(*layer, name));
        let known = names.collect::<HashSet<_>>();
        // Older files hold the frequencies of rotary positions, which follow from the configuration.
        let left_out = |tensor: &&String| {
            tensor.starts_with("model.layers.")
                && !known.contains(*tensor)
                && !tensor.ends_with(".self_attn.rotary_emb.inv_freq")
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

    fn tensor(
        &self,
        layer: Option<usize>,
        name: &str,
        shape: &[usize],
    ) -> Result<SourceTensor<'_>, TensorError> {
        let name = names::hugging_face(layer, name);
        let Some(number) = self.index.get(&name) else {
            return Err(TensorError::Missing {
                path: self.path.clone(),
                tensor: name,
            });
        };
        let file = &self.files[*number];
        let tensor = file.expect(&name, &[Dtype::F32, Dtype::F16, Dtype::BF16], shape)?;
        let (rows, columns) = rows_and_columns(shape);
        Ok(SourceTensor {
            path: file.path(),
            name,
            encoding: match tensor.dtype {
                Dtype::F16 => Encoding::F16,
                Dtype::BF16 => Encoding::BF16,
                _ => Encoding::F32,
            },
            map: file.map(),
            range: tensor.range.clone(),
            rows,
            columns,
            order: RowOrder::Plain,
        })
    }
}
