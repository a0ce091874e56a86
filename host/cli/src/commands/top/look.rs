//! One look at a cluster.

use std::collections::BTreeMap;

use halo_fabric::{CallError, Fabric, NodeId};
use halo_runtime::{Generating, Loading, Planned, PolicyState, Profile, cluster, rollout};

/// What the nodes say of themselves. Those of an older version do not answer everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// All members; nothing of those that do not answer.
    pub(super) profiles: BTreeMap<NodeId, Option<Profile>>,
    pub(super) loading: BTreeMap<NodeId, Loading>,
    /// Of those that lead.
    pub(super) plans: BTreeMap<NodeId, Planned>,
    pub(super) generating: BTreeMap<NodeId, Generating>,
    pub(super) policies: BTreeMap<NodeId, PolicyState>,
}

impl Look {
    /// Asks all members.
    pub(super) async fn at(fabric: &Fabric) -> Self {
        let (profiles, loading, plans, generating, policies) = tokio::join!(
            cluster::profiles(fabric),
            cluster::loading(fabric),
            cluster::plans(fabric),
            cluster::generating(fabric),
            rollout::states(fabric),
        );
        let plans = answered(plans).into_iter();
        Self {
            profiles: profiles.into_iter().map(|(n, p)| (n, p.ok())).collect(),
            loading: answered(loading),
            plans: plans.filter_map(|(n, plan)| Some((n, plan?))).collect(),
            generating: answered(generating),
            policies: answered(policies),
        }
    }
}

fn answered<T>(answers: BTreeMap<NodeId, Result<T, CallError>>) -> BTreeMap<NodeId, T> {
    let answers = answers.into_iter();
    answers
        .filter_map(|(node, answer)| Some((node, answer.ok()?)))
        .collect()
}
