//! How much of each machine's memory a model takes, by how many machines share it.

use halo_engine::{KvCache, packed_backbone_bytes, packed_groups_bytes};
use halo_models::Package;
use serde::Serialize;

use crate::output;

/// The most machines to tell of.
const MOST: u64 = 8;

/// Tokens of one generation that the leader keeps keys and values of, or the model's context if that is less.
const TOKENS: usize = 2048;

/// What machines need that share the groups evenly, in bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Needs {
    nodes: u64,
    /// The one that leads, with attention, output head and KV cache.
    leader: u64,
    /// Each of the others.
    worker: Option<u64>,
}

/// What 1 machine needs, what 2 need, and so on.
pub(super) fn needs(package: &Package) -> Vec<Needs> {
    let shape = package.shape();
    let cache = KvCache::bytes(shape, TOKENS.min(shape.context));
    of(
        packed_groups_bytes(package),
        packed_backbone_bytes(package) + cache,
    )
}

fn of(groups: u64, of_leader: u64) -> Vec<Needs> {
    let needs = |nodes| {
        let share = groups.div_ceil(nodes);
        Needs {
            nodes,
            leader: of_leader + share,
            worker: (nodes > 1).then_some(share),
        }
    };
    (1..=MOST).map(needs).collect()
}

/// For people.
pub(super) fn table(package: &Package) -> String {
    let mut rows = vec![
        ["nodes", "leader", "each worker"]
            .map(String::from)
            .to_vec(),
    ];
    for Needs {
        nodes,
        leader,
        worker,
    } in needs(package)
    {
        rows.push(vec![
            nodes.to_string(),
            output::bytes(leader),
            worker.map_or("-".into(), output::bytes),
        ]);
    }
    format!(
        "{}\nWeights, and on the leader the KV cache of one text of {} tokens. The program takes about 0.1 GB more.\n",
        output::table(&rows),
        TOKENS.min(package.shape().context)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_shared_and_the_rest_is_the_leaders() {
        let needs = of(1000, 300);
        assert_eq!(needs.len(), 8);
        let [one, two, three] = &needs[..3] else {
            panic!("{needs:?}")
        };
        assert_eq!((one.nodes, one.leader, one.worker), (1, 1300, None));
        assert_eq!((two.nodes, two.leader, two.worker), (2, 800, Some(500)));
        // No group is forgotten.
        assert_eq!(
            (three.nodes, three.leader, three.worker),
            (3, 634, Some(334))
        );
    }
}
