//! A node that has no model waits for one.

use std::time::Duration;

use halo_fabric::{Call, Fabric, HandlerFuture};
use halo_models::Package;

use super::{Taker, Wanted, cache};
use crate::cluster;
use crate::config::Config;
use crate::error::NodeError;
use crate::messages::{MODEL_OFFER, MODEL_TAKE, MODEL_TAKING, PROFILE};
use crate::node::{fabric_config, profile};
use crate::operations::{parse, value};

/// How often others are asked for their model.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// A node that is asked for the first time reads all of its package before it answers.
const OFFER_PATIENCE: Duration = Duration::from_secs(600);

/// Joins a cluster without a model, takes the one that it is given or that another node has, and leaves again.
///
/// # Errors
///
/// The network cannot be opened or is closed, or there is nowhere to keep a package.
pub async fn receive(config: &Config) -> Result<Package, NodeError> {
    let cache = cache(&config.packages).ok_or(NodeError::NoCache)?;
    let fabric = Fabric::open(fabric_config(config)?).await?;
    let taker = Taker::new(fabric.clone(), Some(cache), None);
    let profile = profile(config, fabric.node().clone(), true);
    let answers = taker.clone();
    let service = fabric.serve(move |call: Call| -> HandlerFuture {
        let (taker, profile) = (answers.clone(), profile.clone());
        Box::pin(async move {
            match call.operation.as_str() {
                PROFILE => value(&profile),
                MODEL_TAKE => value(&taker.take(parse(call.body)?, call.from)?),
                MODEL_TAKING => value(&taker.taking(&parse(call.body)?)),
                _ => Err("this node has no model yet".into()),
            }
        })
    });
    let _service = service.await?;
    fabric.announce().await?;
    let mut taken = taker.taken();
    let package = loop {
        tokio::select! {
            package = taken.wait_for(Option::is_some) => match package {
                Ok(package) => break package.clone(),
                Err(error) => return Err(NodeError::Task(error.to_string())),
            },
            () = tokio::time::sleep(LOOK_PERIOD) => look(&fabric, &taker).await,
        }
    };
    fabric.close().await;
    package.ok_or_else(|| NodeError::Task("no package".into()))
}

/// Takes what a leader computes with or, if there is none, a worker.
async fn look(fabric: &Fabric, taker: &Taker) {
    let profiles = cluster::profiles(fabric).await;
    let mut holders: Vec<_> = profiles.into_values().filter_map(Result::ok).collect();
    holders.retain(|p| !p.model.is_empty() && p.node != *fabric.node());
    holders.sort_by_key(|p| p.serves);
    for holder in holders {
        let offer = fabric.call::<_, Wanted>(&holder.node, MODEL_OFFER, &(), OFFER_PATIENCE);
        match offer.await {
            // Another may be under way.
            Ok(wanted) => return drop(taker.take(wanted, Some(holder.node))),
            Err(error) => tracing::warn!("no package: {error}"),
        }
    }
}
