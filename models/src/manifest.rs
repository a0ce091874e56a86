//! `manifest.json`: what a package is and which files it has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::chat::ChatTokens;
use crate::digest;
use crate::error::PackageError;
use crate::layout::Layout;
use crate::shape::Shape;

/// The file that makes a folder a package.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The tokenizer, in Hugging Face's format.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// How conversations are written, in Jinja. Optional.
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Embedding, final norm and, unless it is tied, the output head.
pub(crate) const EMBEDDING: &str = "embedding.safetensors";
/// What was learnt by running the model. Optional.
pub(crate) const CALIBRATION: &str = "calibration.safetensors";

/// The file of one layer.
pub(crate) fn layer_file(layer: usize) -> String {
    format!("layer-{layer:03}.safetensors")
}

/// What a package is and which files it has: the content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the package format: [`Manifest::FORMAT`].
    pub format: u32,
    /// The model's name: letters, digits, `.`, `_` and `-`, at most 64.
    pub name: String,
    /// The family of models: [`Manifest::ARCHITECTURE`].
    pub architecture: String,
    /// Dimensions and constants.
    pub shape: Shape,
    /// Feed-forward neurons in one group.
    pub group_size: usize,
    /// How weights are stored.
    pub quantisation: Quantisation,
    /// The tokens that the chat template refers to; there where there is a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatTokens>,
    /// Where the model came from, for people to read.
    pub source: String,
    /// Every other file of the package, by name.
    pub files: BTreeMap<String, FileRecord>,
}

/// Size and hash of one file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl FileRecord {
    /// Checks the hash that was found of the file at `path`.
    pub(crate) fn check_hash(&self, path: &Path, found: String) -> Result<(), PackageError> {
        if found == self.sha256 {
            return Ok(());
        }
        Err(PackageError::Hash {
            path: path.into(),
            expected: self.sha256.clone(),
            found,
        })
    }
}

/// How a package stores its weights. Norms are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantisation {
    /// Attention and feed-forward matrices.
    pub weights: WeightFormat,
    /// The embedding, and the output head unless it has a format of its own.
    pub embedding: WeightFormat,
    /// The output head, where it is not tied and not stored as the embedding is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<WeightFormat>,
}

/// How a matrix is stored.
///
/// In text (`--weights q4:64`, say) `f32`, `f16`, `q4`, `q8`, or with a block size `q4:64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "lowercase", deny_unknown_fields)]
pub enum WeightFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// 4 bits a weight.
    Q4 {
        /// Weights of a row that share a scale and a zero point; a matrix whose rows do not divide into such blocks
        /// uses the largest smaller power of two that divides them.
        block: usize,
    },
    /// 8 bits a weight.
    Q8 {
        /// As for [`WeightFormat::Q4`].
        block: usize,
    },
}

impl Manifest {
    /// The version of the package format that this build writes and reads.
    pub const FORMAT: u32 = 1;
    /// The one family of models there is today.
    pub const ARCHITECTURE: &str = "llama";

    /// Reads and validates a manifest. `path` is for errors only.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, PackageError> {
        /// What a manifest of any format has.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let manifest_error = |reason: String| PackageError::Manifest {
            path: path.into(),
            reason,
        };
        let head: Head =
            serde_json::from_slice(bytes).map_err(|error| manifest_error(error.to_string()))?;
        if head.format != Self::FORMAT {
            return Err(PackageError::Format {
                path: path.into(),
                found: head.format,
                supported: Self::FORMAT,
            });
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| manifest_error(error.to_string()))?;
        if manifest.architecture != Self::ARCHITECTURE {
            return Err(manifest_error(format!(
                "architecture `{}` is not supported, only `{}`",
                manifest.architecture,
                Self::ARCHITECTURE
            )));
        }
        check_name(&manifest.name).map_err(manifest_error)?;
        manifest
            .shape
            .validate()
            .map_err(|source| PackageError::Shape {
                path: path.into(),
                source,
            })?;
        manifest.check_files().map_err(manifest_error)?;
        Ok(manifest)
    }

    /// Checks that exactly the files are listed that a package of this shape has. Nothing else may be, because names
    /// are joined to the folder's path.
    fn check_files(&self) -> Result<(), String> {
        let expected = weight_files(self.shape.layers)
            .chain([TOKENIZER.to_owned()])
            .chain(self.chat.iter().map(|_| CHAT_TEMPLATE.to_owned()))
            .collect::<BTreeSet<_>>();
        if let Some(missing) = expected.iter().find(|name| !self.files.contains_key(*name)) {
            return Err(format!("`{missing}` is not listed"));
        }
        for (name, record) in &self.files {
            if name != CALIBRATION && !expected.contains(name) {
                return Err(format!(
                    "`{name}` is listed, but is no file of a package of {} layers",
                    self.shape.layers
                ));
            }
            let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if record.sha256.len() != 64 || !record.sha256.bytes().all(digit) {
                return Err(format!(
                    "the hash of `{name}` is not 64 lower-case hexadecimal digits"
                ));
            }
        }
        Ok(())
    }

    /// The layout of the weights.
    pub(crate) fn layout(&self) -> Result<Layout, String> {
        Layout::new(&self.shape, self.group_size, self.quantisation)
    }

    /// The file's content.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with string keys: there is nothing here that JSON cannot express.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// A hash of everything that determines what the weights compute.
    pub(crate) fn identity(&self) -> String {
        let weights = weight_files(self.shape.layers)
            .map(|name| self.files.get(&name).map(|record| record.sha256.as_str()))
            .collect::<Vec<_>>();
        let what = (
            self.format,
            &self.architecture,
            &self.shape,
            self.group_size,
            self.quantisation,
            weights,
        );
        digest::of_bytes(&serde_json::to_vec(&what).unwrap_or_default())
    }
}

/// The names of all weight files.
fn weight_files(layers: usize) -> impl Iterator<Item = String> {
    std::iter::once(EMBEDDING.to_owned()).chain((0..layers).map(layer_file))
}

/// Whether a file of a package can have this name.
pub(crate) fn is_package_file(name: &str) -> bool {
    let layer = |name: &str| {
        let digits = name.strip_prefix("layer-")?.strip_suffix(".safetensors")?;
        Some(digits.len() >= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    [MANIFEST, TOKENIZER, CHAT_TEMPLATE, EMBEDDING, CALIBRATION].contains(&name)
        || layer(name) == Some(true)
}

/// Checks a model's name, which goes into paths and keys.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.') {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a model name: 1 to 64 letters, digits, `.`, `_` and `-`, not beginning with `.`",
        name.escape_debug()
    ))
}

impl WeightFormat {
    /// Weights per scale unless something else is asked for.
    pub const DEFAULT_BLOCK: usize = 256;
    /// The smallest block ONNX Runtime takes.
    pub(crate) const MIN_BLOCK: usize = 16;
    const MAX_BLOCK: usize = 256;

    /// Whether the block size, if there is one, is a power of two from 16 to 256.
    #[must_use]
    pub fn is_valid(self) -> bool {
        match self {
            Self::F32 | Self::F16 => true,
            Self::Q4 { block } | Self::Q8 { block } => {
                block.is_power_of_two() && (Self::MIN_BLOCK..=Self::MAX_BLOCK).contains(&block)
            }
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Q4 { block } => write!(f, "q4:{block}"),
            Self::Q8 { block } => write!(f, "q8:{block}"),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, block) = match text.split_once(':') {
            Some((name, block)) => (name, Some(block)),
            None => (text, None),
        };
        let block_size = || match block {
            Some(digits) => digits
                .parse()
                .map_err(|_| format!("`{digits}` is not a block size")),
            None => Ok(Self::DEFAULT_BLOCK),
        };
        let format = match (name, block) {
            ("f32", None) => Self::F32,
            ("f16", None) => Self::F16,
            ("q4", _) => Self::Q4 {
                block: block_size()?,
            },
            ("q8", _) => Self::Q8 {
                block: block_size()?,
            },
            _ => {
                return Err(format!(
                    "`{text}` is not f32, f16, q4, q8, q4:BLOCK or q8:BLOCK"
                ));
            }
        };
        if format.is_valid() {
            Ok(format)
        } else {
            Err(format!(
                "the block size in `{text}` is not a power of two from 16 to 256"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_formats_in_text() {
        for (text, format, full) in [
            ("f32", WeightFormat::F32, "f32"),
            ("f16", WeightFormat::F16, "f16"),
            ("q4", WeightFormat::Q4 { block: 256 }, "q4:256"),
            ("q4:32", WeightFormat::Q4 { block: 32 }, "q4:32"),
            ("q8:256", WeightFormat::Q8 { block: 256 }, "q8:256"),
        ] {
            assert_eq!(text.parse(), Ok(format));
            assert_eq!(format.to_string(), full);
            assert_eq!(full.parse(), Ok(format));
        }
        for text in [
            "", "q5", "f16:32", "q4:", "q4:x", "q4:0", "q4:8", "q4:48", "q8:512", "q4:-32",
        ] {
            assert!(text.parse::<WeightFormat>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_names_that_a_package_gives_are_its_files() {
        for name in [
            "manifest.json",
            "tokenizer.json",
            "calibration.safetensors",
            "layer-007.safetensors",
        ] {
            assert!(is_package_file(name), "{name}");
        }
        for name in [
            "README.md",
            "layer-7.safetensors",
            "layer-abc.safetensors",
            "model.safetensors",
        ] {
            assert!(!is_package_file(name), "{name}");
        }
    }
}
