//! Fetching a package from whoever has it.

use std::collections::BTreeSet;
use std::time::Duration;

use halo_fabric::{CallError, Fabric, NodeId};
use halo_models::{Download, DownloadError, Package, PackageCache, PackageError, PieceList};
use tracing::{info, warn};

use super::{PieceOf, Wanted};
use crate::cluster;
use crate::messages::{MODEL_LIST, MODEL_PIECE};

/// A node that makes its list reads all of its package first.
const LIST_PATIENCE: Duration = Duration::from_secs(600);

/// For one piece, with the pauses that its giver makes.
const PIECE_PATIENCE: Duration = Duration::from_secs(30);

/// How often a damaged piece is asked for.
const TRIES: usize = 3;

/// How often whoever may have the package is looked for, and the pause before the next time.
const ROUNDS: usize = 15;
const PAUSE: Duration = Duration::from_secs(2);

/// Why a package did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// It cannot be kept here.
    #[error(transparent)]
    Here(DownloadError),
    /// A node gives what is not the package.
    #[error("{from} gave {what}; `halo model verify` there shows whether its package is damaged")]
    Lied { from: NodeId, what: String },
    /// A node gives nothing.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Nobody has it.
    #[error(
        "no node has it any more; what has come is kept, and `halo model push` goes on from there"
    )]
    Nobody,
}

impl From<DownloadError> for FetchError {
    fn from(error: DownloadError) -> Self {
        Self::Here(error)
    }
}

impl From<PackageError> for FetchError {
    fn from(error: PackageError) -> Self {
        Self::Here(error.into())
    }
}

/// How far it is: from whom, bytes that are here, and bytes in all.
pub(super) type Tell<'a> = &'a (dyn Fn(&NodeId, u64, u64) + Send + Sync);

/// Who gives the package by their own account.
pub(super) type Givers<'a> = &'a (dyn Fn() -> Vec<NodeId> + Send + Sync);

/// Fetches a package, unless it is here: from those that give it, and from others that have it while they do not.
pub(super) async fn fetch(
    fabric: &Fabric,
    cache: &PackageCache,
    wanted: &Wanted,
    givers: Givers<'_>,
    tell: Tell<'_>,
) -> Result<Package, FetchError> {
    if let Some(package) = cache.find(&wanted.name, &wanted.digest)? {
        return Ok(package);
    }
    let mut liars = BTreeSet::new();
    let mut failure = FetchError::Nobody;
    for _ in 0..ROUNDS {
        let mut sources = givers();
        sources.extend(holders(fabric, &wanted.identity).await);
        for source in sources {
            if liars.contains(&source) {
                continue;
            }
            match fetch_from(fabric, cache, wanted, &source, tell).await {
                Ok(package) => return Ok(package),
                Err(FetchError::Here(error)) => return Err(error.into()),
                Err(error) => {
                    warn!(model = wanted.name, "{error}");
                    if matches!(error, FetchError::Lied { .. }) {
                        liars.insert(source);
                        failure = error;
                    }
                }
            }
        }
        // Who lies is not asked again; who was away may be back.
        if !liars.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(failure)
}

/// The members that have a package with these weights.
async fn holders(fabric: &Fabric, identity: &str) -> Vec<NodeId> {
    let profiles = cluster::profiles(fabric).await;
    let profiles = profiles.into_values().filter_map(Result::ok);
    let others = profiles.filter(|p| p.model == identity && p.node != *fabric.node());
    others.map(|p| p.node).collect()
}

async fn fetch_from(
    fabric: &Fabric,
    cache: &PackageCache,
    wanted: &Wanted,
    from: &NodeId,
    tell: Tell<'_>,
) -> Result<Package, FetchError> {
    let lied = |what: String| FetchError::Lied {
        from: from.clone(),
        what,
    };
    let bytes = fabric
        .fetch(from, MODEL_LIST, wanted, LIST_PATIENCE)
        .await?;
    let list =
        PieceList::parse(bytes).map_err(|e| lied(format!("a list of pieces in which {e}")))?;
    if list.digest() != wanted.digest {
        return Err(lied(format!(
            "a list of pieces with the digest {}, not {}",
            list.digest(),
            wanted.digest
        )));
    }
    let total = list.total_bytes();
    let mut download = tokio::task::block_in_place(|| Download::begin(cache, list))?;
    info!(model = wanted.name, %from, have = download.done(), total, "fetching a package");
    tell(from, download.done(), total);
    let mut tries = 0;
    while let Some((file, piece)) = download.next() {
        let question = PieceOf {
            digest: wanted.digest.clone(),
            file: file.to_owned(),
            piece,
        };
        let bytes = fabric
            .fetch(from, MODEL_PIECE, &question, PIECE_PATIENCE)
            .await?;
        tries += 1;
        match tokio::task::block_in_place(|| download.add(&bytes)) {
            Ok(()) => tries = 0,
            Err(error @ DownloadError::Damaged { .. }) if tries < TRIES => {
                warn!(model = wanted.name, %from, "{error}; asking again");
            }
            Err(error @ DownloadError::Damaged { .. }) => {
                return Err(lied(format!("the same {tries} times: {error}")));
            }
            Err(error) => return Err(error.into()),
        }
        tell(from, download.done(), total);
    }
    Ok(tokio::task::block_in_place(|| download.finish())?)
}
