//! HALO's model packages: reading, verifying, importing and quantising them. Nothing here runs a model.
//!
//! A **package** is a folder: `manifest.json` says what the model is and lists every other file with its SHA-256;
//! `tokenizer.json` is the tokenizer in Hugging Face's format; `embedding.safetensors` holds the embedding, the final
//! norm and, when it is not tied to the embedding, the output head; `layer-000.safetensors` and so on hold one layer
//! each. Feed-forward weights lie *group-major*, so that the bytes of one neuron group are contiguous in every matrix
//! and can be read, sent or left on the disk on their own. `calibration.safetensors`, which is optional, holds what was
//! learnt by running the model: see [`Calibration`].
//!
//! Weight files are mapped into memory; opening a package reads only their headers, and checks every tensor's type and
//! shape, so that reading a matrix afterwards cannot fail.

#![deny(unsafe_code)]

mod atomic;
mod build;
mod calibration;
mod chat;
mod columns;
mod digest;
mod download;
mod error;
mod gguf;
mod import;
mod layout;
mod manifest;
mod mapped;
mod matrix;
mod package;
mod package_cache;
mod piece_list;
mod published;
mod quantise;
mod random;
mod region;
mod rope;
mod shape;
mod tensors;
mod tokenizer;
mod verify;

pub use build::Progress;
pub use calibration::{Array, Calibration};
pub use chat::{ChatTemplate, ChatTokens, Message, Role};
pub use columns::Columns;
pub use download::{Download, DownloadError};
pub use error::{ImportError, PackageError};
pub use gguf::{GgufError, GgufFault};
pub use import::{ImportOptions, import};
pub use manifest::{FileRecord, Manifest, Quantisation, WeightFormat};
pub use matrix::{Matrix, Values};
pub use package::{Attention, Group, Package};
pub use package_cache::PackageCache;
pub use piece_list::{PIECE_BYTES, PieceList};
pub use published::PublishedShape;
pub use random::{RandomOptions, random};
pub use region::Region;
pub use rope::RopeScaling;
pub use shape::{Shape, ShapeError};
pub use tensors::TensorError;
pub use tokenizer::{DecodeStream, Tokenizer, Vocabulary, VocabularyError};
