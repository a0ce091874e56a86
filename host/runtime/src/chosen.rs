//! The workers that a node's placements may count on: all that there are, unless somebody chooses.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use halo_fabric::NodeId;
use tokio::sync::watch;

use crate::error::NodeError;
use crate::planned::Planned;

/// Between two looks at what is planned.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A choice that the planner follows while tokens flow.
pub(crate) struct Chosen {
    workers: watch::Sender<Option<BTreeSet<NodeId>>>,
}

impl Default for Chosen {
    fn default() -> Self {
        Self {
            workers: watch::Sender::new(None),
        }
    }
}

impl Chosen {
    /// The choice, and every later one. `None`: all workers that there are.
    pub(crate) fn follow(&self) -> watch::Receiver<Option<BTreeSet<NodeId>>> {
        self.workers.subscribe()
    }

    /// Chooses, and waits until a placement over just these workers is `planned`.
    pub(crate) async fn choose(
        &self,
        workers: BTreeSet<NodeId>,
        planned: &Arc<Mutex<Option<Planned>>>,
        patience: Duration,
    ) -> Result<Planned, NodeError> {
        let end = Instant::now() + patience;
        self.workers.send_replace(Some(workers.clone()));
        loop {
            let now = planned
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(planned) = now.filter(|planned| is_over(planned, &workers)) {
                return Ok(planned);
            }
            // Without a planner there is nothing to wait for.
            if self.workers.is_closed() || Instant::now() >= end {
                return Err(NodeError::NotPlaced {
                    workers: workers.into_iter().collect(),
                    seconds: patience.as_secs(),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Whether a placement counts on these workers and no others. It may give them nothing to do.
fn is_over(planned: &Planned, workers: &BTreeSet<NodeId>) -> bool {
    let devices = planned.devices.iter().skip(1);
    devices.map(|device| &device.node).eq(workers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planned::PlannedDevice;

    fn planned(nodes: &[&str]) -> Planned {
        let device = |node: &&str| PlannedDevice {
            node: node.parse().unwrap(),
            groups: 0,
            heads: 0,
            share: 0.0,
            importance: 0.0,
            speed: 1.0,
            part_us: 0.0,
            delay_us: 0,
            spread_us: 0,
            loss: 0.0,
            memory_used: 0,
            memory: 0,
            why: String::new(),
        };
        Planned {
            epoch: 1,
            scheduler: "test".into(),
            token_us: 1,
            round_us: 1.0,
            devices: nodes.iter().map(device).collect(),
        }
    }

    fn nodes(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_placement_over_others_is_not_the_one() {
        let chosen = Chosen::default();
        let mut followed = chosen.follow();
        assert_eq!(*followed.borrow_and_update(), None);
        let slot = Arc::new(Mutex::new(Some(planned(&["leader", "a", "b"]))));
        let wait = |names: &[&str], patience| chosen.choose(nodes(names), &slot, patience);

        let moment = Duration::from_millis(1);
        let refused = wait(&["a"], moment).await.unwrap_err();
        assert!(
            matches!(&refused, NodeError::NotPlaced { workers, .. } if workers.len() == 1),
            "{refused}"
        );
        assert!(followed.has_changed().unwrap());
        assert_eq!(*followed.borrow_and_update(), Some(nodes(&["a"])));

        let both = wait(&["b", "a"], moment).await.unwrap();
        assert_eq!(both.devices.len(), 3);
    }

    #[tokio::test]
    async fn without_a_planner_nobody_waits() {
        let chosen = Chosen::default();
        let ages = Duration::from_secs(1_000_000);
        let refused = chosen.choose(nodes(&["a"]), &Arc::default(), ages).await;
        assert!(matches!(refused, Err(NodeError::NotPlaced { .. })));
    }
}
