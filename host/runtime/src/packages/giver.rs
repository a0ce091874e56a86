//! The side that has a package.

use std::sync::Arc;

use halo_fabric::{Call, Fabric, FabricError, HandlerFuture, NodeId, Service};
use halo_models::{Package, PieceList};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::pacer::Pacer;
use super::{PieceOf, Wanted};
use crate::messages::{MODEL_LIST, MODEL_PIECE};
use crate::operations::parse;

/// Gives a package to whoever asks for it. Clones are the same giver.
#[derive(Debug, Clone)]
pub struct Giver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fabric: Fabric,
    package: Package,
    /// Made when it is first asked for: all of the package has to be read.
    list: OnceCell<Result<Arc<PieceList>, String>>,
    /// One piece is read and goes out at a time, so that there is one in memory.
    pacer: Mutex<Pacer>,
}

impl Giver {
    /// A giver of at most `rate` bytes a second, to all takers together.
    pub fn new(fabric: Fabric, package: Package, rate: Option<u64>) -> Self {
        Self(Arc::new(Inner {
            fabric,
            package,
            list: OnceCell::new(),
            pacer: Mutex::new(Pacer::new(rate)),
        }))
    }

    /// Answers until the service is dropped.
    ///
    /// # Errors
    ///
    /// The network is closed.
    pub async fn serve(&self) -> Result<Service, FabricError> {
        let giver = self.clone();
        let answer = move |call: Call| -> HandlerFuture<Vec<u8>> {
            let giver = giver.clone();
            Box::pin(async move { giver.answer(call).await })
        };
        self.0.fabric.serve_bulk(answer).await
    }

    /// What is given.
    ///
    /// # Errors
    ///
    /// The package cannot be read, or is damaged; in words.
    pub async fn offer(&self) -> Result<Wanted, String> {
        let list = self.list().await?;
        Ok(Wanted {
            name: list.name().to_owned(),
            digest: list.digest(),
            identity: list.identity(),
        })
    }

    async fn list(&self) -> Result<Arc<PieceList>, String> {
        let make = || async {
            let package = self.0.package.clone();
            let list = tokio::task::spawn_blocking(move || PieceList::of(&package, |_, _| ()));
            let list = list.await.map_err(|e| e.to_string())?;
            Ok(Arc::new(list.map_err(|e| e.to_string())?))
        };
        self.0.list.get_or_init(make).await.clone()
    }

    async fn answer(&self, call: Call) -> Result<Vec<u8>, String> {
        let asked = Instant::now();
        match call.operation.as_str() {
            MODEL_LIST => {
                let wanted: Wanted = parse(call.body)?;
                // Only a package with the same weights can be the same, and making its list takes long.
                if wanted.identity != self.0.package.identity() {
                    return Err(self.another());
                }
                let list = self.list().await?;
                if list.digest() != wanted.digest {
                    return Err(self.another());
                }
                Ok(list.bytes().to_vec())
            }
            MODEL_PIECE => {
                let of: PieceOf = parse(call.body)?;
                let from = call.from.ok_or("it does not say who asks")?;
                if self.list().await?.digest() != of.digest {
                    return Err(self.another());
                }
                self.piece(of, &from, asked).await
            }
            unknown => Err(format!("this node gives no `{unknown}`")),
        }
    }

    async fn piece(&self, of: PieceOf, to: &NodeId, asked: Instant) -> Result<Vec<u8>, String> {
        let mut pacer = self.0.pacer.lock().await;
        let package = self.0.package.clone();
        let read = tokio::task::spawn_blocking(move || package.piece(&of.file, of.piece));
        let bytes = read.await.map_err(|e| e.to_string())?;
        let bytes = bytes.map_err(|e| e.to_string())?;
        pacer.pause(&self.0.fabric, to, asked, bytes.len()).await;
        Ok(bytes)
    }

    fn another(&self) -> String {
        format!("this node has another package, {}", self.0.package.name())
    }
}
