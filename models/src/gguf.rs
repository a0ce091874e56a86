//! GGUF files, mapped into memory, whose headers have been checked.
//!
//! The header is walked here rather than by a library such as candle's, which keeps every array element as an enum of
//! 32 bytes, takes the last of two tensors of one name, lets tensors overlap, and cannot say which key is wrong.

mod encoding;
mod header;
mod value;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use encoding::Encoding;
pub(crate) use header::{Element, Tensor};

use crate::mapped::Mapped;
use crate::tokenizer::VocabularyError;
use header::Header;
use value::{FromScalar, Value};

/// A GGUF file that cannot be read, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: GgufFault,
}

/// What is wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufFault {
    /// It cannot be read.
    #[error("{0}")]
    Open(#[source] io::Error),
    /// The first bytes are another format's.
    #[error("this is not a GGUF file")]
    Magic,
    /// The numbers are in the other byte order.
    #[error("this is a big-endian GGUF file; convert the model again to a little-endian one")]
    BigEndian,
    /// Version 1, which was used for a few weeks in 2023, or one from the future.
    #[error("GGUF version {0}, but HALO reads 2 and 3; convert the model again")]
    Version(u32),
    /// The header says something it must not.
    #[error("the header {0}; copy or download the file again")]
    Header(String),
    /// A metadata key is missing or has another value than it must.
    #[error("key `{}` {reason}", key.escape_debug())]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No tokenizer can be made of its vocabulary.
    #[error("{0}")]
    Vocabulary(#[source] VocabularyError),
    /// The header describes a tensor that cannot be.
    #[error("tensor `{}` {reason}", tensor.escape_debug())]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A GGUF file, mapped into memory.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mapped,
    header: Header,
}

impl Gguf {
    /// Maps a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, GgufError> {
        let error = |fault| GgufError {
            path: path.into(),
            fault,
        };
        let map = Mapped::open(path).map_err(|source| error(GgufFault::Open(source)))?;
        let header = Header::parse(&map).map_err(error)?;
        Ok(Self {
            path: path.into(),
            map,
            header,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn map(&self) -> &Mapped {
        &self.map
    }

    pub(crate) fn tensors(&self) -> &HashMap<String, Tensor> {
        &self.header.tensors
    }

    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.header.metadata.contains_key(key)
    }

    /// The value of a key, if it is there.
    pub(crate) fn get<'a, T: FromScalar<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        self.find(key, Value::scalar, T::NAME)
    }

    /// The value of a key that must be there.
    pub(crate) fn need<'a, T: FromScalar<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.get(key)?
            .ok_or_else(|| self.key_error(key, "is missing".into()))
    }

    /// The elements of an array, if the key is there.
    pub(crate) fn array<'a, T: FromScalar<'a>>(
        &'a self,
        key: &str,
    ) -> Result<Option<Vec<T>>, GgufError> {
        self.find(
            key,
            Value::array,
            &format!("an array of which each is {}", T::NAME),
        )
    }

    fn find<'a, T>(
        &'a self,
        key: &str,
        read: impl FnOnce(&Value, &'a [u8]) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.header.metadata.get(key) else {
            return Ok(None);
        };
        let wrong = || self.key_error(key, format!("is not {expected}"));
        read(value, &self.map).map(Some).ok_or_else(wrong)
    }

    /// An error for a key whose value cannot be used.
    pub(crate) fn key_error(&self, key: &str, reason: String) -> GgufError {
        let key = key.into();
        self.error(GgufFault::Key { key, reason })
    }

    /// An error for a vocabulary of which no tokenizer can be made.
    pub(crate) fn vocabulary_error(&self, source: VocabularyError) -> GgufError {
        self.error(GgufFault::Vocabulary(source))
    }

    fn error(&self, fault: GgufFault) -> GgufError {
        let path = self.path.clone();
        GgufError { path, fault }
    }
}
