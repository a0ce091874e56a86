//! Whom a round waits for.
//!
//! A token may go without `budget` of its predicted contribution, averaged over its rounds. After `layer` of `layers` rounds that
//! have gone without `concealed` on average, what is left is `budget * layers - concealed * layer`, and this round may take all of it:
//! losses are rare, and to save up for them evenly would be to wait for the first. The debtors that matter least are taken first, for as
//! long as all of them together fit; everybody else is needed.

use crate::bindings::exports::halo::policy::scheduler::{Order, Round, Verdict};
use crate::settings::Settings;

/// Shortest patience: shorter than this is within the noise of any clock and any operating system.
const MIN_PATIENCE_US: u32 = 500;
/// Patience never grows past this, whatever is expected.
const MAX_PATIENCE_US: u32 = 10_000_000;
/// More rows than these are too many packets to send twice.
const MAX_DOUBLED_ROWS: u32 = 4;

/// The verdict on a round of a model with so many layers; 0 if that is not known yet.
pub fn admit(settings: &Settings, layers: u32, round: &Round) -> Verdict {
    let mut orders: Vec<Order> = round
        .debtors
        .iter()
        .map(|debtor| {
            let twice = debtor.loss > settings.double_loss && round.rows <= MAX_DOUBLED_ROWS;
            Order {
                needed: true,
                copies: if twice { 2 } else { 1 },
            }
        })
        .collect();

    let layer = round.layer as f32;
    let rounds = layers.max(round.layer + 1) as f32;
    let mut left = settings.budget * rounds - round.concealed * layer;
    let mut least_first: Vec<usize> = (0..round.debtors.len()).collect();
    least_first.sort_by(|&a, &b| round.debtors[a].share.total_cmp(&round.debtors[b].share));
    let mut patience_us = MIN_PATIENCE_US;
    for index in least_first {
        let debtor = &round.debtors[index];
        left -= debtor.share;
        if left < 0.0 || debtor.share > settings.needed_share {
            break;
        }
        orders[index].needed = false;
        // Nearly all answers come within four deviations, so going on without one stays rare.
        let usual = debtor
            .expected_us
            .saturating_add(debtor.spread_us.saturating_mul(4));
        patience_us = patience_us.max(usual).min(MAX_PATIENCE_US);
    }
    Verdict {
        orders,
        patience_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::exports::halo::policy::scheduler::Debtor;

    const LAYERS: u32 = 20;

    fn round(layer: u32, concealed: f32, shares: &[f32]) -> Round {
        let debtor = |(device, &share): (usize, &f32)| Debtor {
            device: device as u32,
            share,
            expected_us: 1000,
            spread_us: 50,
            loss: 0.02,
        };
        Round {
            layer,
            rows: 1,
            debtors: shares.iter().enumerate().map(debtor).collect(),
            concealed,
        }
    }

    fn needed(round: &Round) -> Vec<bool> {
        admit(&Settings::default(), LAYERS, round)
            .orders
            .iter()
            .map(|order| order.needed)
            .collect()
    }

    #[test]
    fn what_fits_the_budget_is_not_needed() {
        assert_eq!(
            needed(&round(0, 0.0, &[0.3, 0.09, 0.3])),
            [false, false, true]
        );
        // Ten of twenty rounds have gone without one and a half times their part.
        assert_eq!(
            needed(&round(10, 0.03, &[0.3, 0.09, 0.3])),
            [true, false, true]
        );
        // The budget is spent.
        assert_eq!(
            needed(&round(10, 0.041, &[0.1, 0.01, 0.3])),
            [true, true, true]
        );
        assert_eq!(needed(&round(10, 1.0, &[0.0])), [true]);
        // Of a model whose layers are not known, what the rounds so far have left.
        let verdict = admit(&Settings::default(), 0, &round(4, 0.0, &[0.11, 0.09]));
        assert!(verdict.orders[0].needed && !verdict.orders[1].needed);
    }

    #[test]
    fn large_shares_are_always_needed() {
        assert_eq!(needed(&round(1000, 0.0, &[0.51, 0.49])), [true, false]);
    }

    #[test]
    fn patience_covers_the_usual_deviation() {
        assert_eq!(
            admit(&Settings::default(), LAYERS, &round(0, 0.0, &[0.01])).patience_us,
            1200
        );
        assert_eq!(
            admit(&Settings::default(), LAYERS, &round(0, 0.0, &[])).patience_us,
            MIN_PATIENCE_US
        );
        let mut late = round(0, 0.0, &[0.01]);
        late.debtors[0].expected_us = u32::MAX;
        assert_eq!(
            admit(&Settings::default(), LAYERS, &late).patience_us,
            MAX_PATIENCE_US
        );
    }

    #[test]
    fn few_packets_over_bad_links_are_doubled() {
        let mut round = round(0, 0.0, &[0.2, 0.2]);
        round.debtors[1].loss = 0.2;
        let copies = |round: &Round| -> Vec<u8> {
            admit(&Settings::default(), LAYERS, round)
                .orders
                .iter()
                .map(|order| order.copies)
                .collect()
        };
        assert_eq!(copies(&round), [1, 2]);
        round.rows = 64;
        assert_eq!(copies(&round), [1, 1]);
    }
}
