//! Model packages that nodes give one another, in pieces that are checked one by one. What has come is kept: whoever begins
//! anew, giver or taker, goes on where it was.

mod fetch;
mod giver;
mod pacer;
mod push;
mod taker;
mod waiting;

use std::path::PathBuf;

use halo_models::PackageCache;
use serde::{Deserialize, Serialize};

use crate::config;

pub use giver::Giver;
pub use push::{PushError, push};
pub(crate) use taker::Taker;
pub use taker::Taking;
pub use waiting::receive;

/// A package that is to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The model's name.
    pub name: String,
    /// Digest of the list of its pieces.
    pub digest: String,
    /// What its weights are; see `Package::identity`.
    pub identity: String,
}

/// Which piece is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PieceOf {
    /// Digest of the package's list.
    digest: String,
    file: String,
    piece: u64,
}

/// Where packages from other nodes are kept; nothing if there is no place.
pub fn cache(settings: &config::Packages) -> Option<PackageCache> {
    let default = || halo_engine::library::data_folder().map(|d| d.join("models"));
    let folder: PathBuf = settings.folder.clone().or_else(default)?;
    Some(PackageCache::new(folder, settings.limit))
}
