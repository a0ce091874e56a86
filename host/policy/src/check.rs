//! Whether questions are well-formed and answers usable.

use std::collections::HashSet;

use crate::{Device, FaultReason, Model, Placement, Round, Verdict};

/// More groups in all layers together than any model has, so that sizes stay within 32 bits.
const MAX_GROUPS: usize = 1 << 24;
/// Patience past this is a mistake: no round is worth a minute.
const MAX_PATIENCE_US: u32 = 60_000_000;
/// Each activation packet may be sent this often.
const COPIES: std::ops::RangeInclusive<u8> = 1..=4;

/// What every policy is told once: a model that has groups, and calibration that fits it.
pub(crate) fn model(model: &Model) -> Result<(), FaultReason> {
    let wrong = |words: String| Err(FaultReason::Question(words));
    let total = model.total_groups();
    if total == 0 || total > MAX_GROUPS {
        return wrong(format!(
            "the model has {} layers of {} groups",
            model.layers, model.groups
        ));
    }
    if !model.importance.is_empty() && model.importance.len() != total {
        return wrong(format!(
            "the model has {total} groups and {} importances",
            model.importance.len()
        ));
    }
    if model
        .importance
        .iter()
        .any(|value| !value.is_finite() || *value < 0.0)
    {
        return wrong("an importance is negative or not finite".into());
    }
    let costs = [
        ("attention", model.attention_cost),
        ("the head", model.head_cost),
    ];
    for (what, cost) in costs {
        if !cost.is_finite() || cost < 0.0 {
            return wrong(format!("the cost of {what} is {cost}"));
        }
    }
    Ok(())
}

/// The devices of a placement: the leader first and only there, with speeds and losses that are numbers.
pub(crate) fn devices(devices: &[Device]) -> Result<(), FaultReason> {
    let wrong = |words: String| Err(FaultReason::Question(words));
    if devices.is_empty() {
        return wrong("there are no devices".into());
    }
    for (index, device) in devices.iter().enumerate() {
        if device.leader != (index == 0) {
            return wrong("the leader must be the first device and the only leader".into());
        }
        if !device.speed.is_finite() || device.speed < 0.0 {
            return wrong(format!(
                "the speed of {:?} is {}",
                device.name, device.speed
            ));
        }
        if !(0.0..=1.0).contains(&device.loss) {
            return wrong(format!("the loss of {:?} is {}", device.name, device.loss));
        }
    }
    Ok(())
}

/// A placement: an owner for each group, each device within its memory, standbys that are other devices.
pub(crate) fn placement(
    model: &Model,
    devices: &[Device],
    placement: &Placement,
) -> Result<(), FaultReason> {
    let expected = model.total_groups();
    if placement.owners.len() != expected {
        return Err(FaultReason::Shape {
            what: "owners",
            expected,
            found: placement.owners.len(),
        });
    }
    let mut held = vec![0u64; devices.len()];
    for (index, &owner) in placement.owners.iter().enumerate() {
        let Some(held) = held.get_mut(owner as usize) else {
            return out_of_range(format!(
                "owner number {index} is device {owner} of {}",
                devices.len()
            ));
        };
        *held += 1;
    }
    let mut seen = HashSet::new();
    for standby in &placement.standbys {
        if standby.layer >= model.layers || standby.group >= model.groups {
            return out_of_range(format!(
                "a standby for group {} of layer {}",
                standby.group, standby.layer
            ));
        }
        let Some(held) = held.get_mut(standby.device as usize) else {
            return out_of_range(format!(
                "a standby on device {} of {}",
                standby.device,
                devices.len()
            ));
        };
        let index = standby.layer as usize * model.groups as usize + standby.group as usize;
        if placement.owners.get(index) == Some(&standby.device)
            || !seen.insert((index, standby.device))
        {
            return out_of_range(format!(
                "device {} is a standby for group {} of layer {} that it holds already",
                standby.device, standby.group, standby.layer
            ));
        }
        *held += 1;
    }
    for (held, device) in held.iter().zip(devices) {
        let bytes = u128::from(*held) * u128::from(model.group_bytes);
        if bytes > u128::from(device.memory) {
            return out_of_range(format!(
                "{held} groups ({bytes} bytes) on {:?}, which has memory for {} bytes",
                device.name, device.memory
            ));
        }
    }
    Ok(())
}

/// A round: its shares, loss and rows are what the contract says.
pub(crate) fn round(round: &Round) -> Result<(), FaultReason> {
    let share = |value: f32| (0.0..=1.0).contains(&value);
    if round.rows == 0 {
        return Err(FaultReason::Question("the round has no rows".into()));
    }
    if !share(round.concealed)
        || round
            .debtors
            .iter()
            .any(|d| !share(d.share) || !share(d.loss))
    {
        return Err(FaultReason::Question(
            "a share or loss of the round is not between 0 and 1".into(),
        ));
    }
    Ok(())
}

/// A verdict: one order a debtor, with copies and patience within reason.
pub(crate) fn verdict(round: &Round, verdict: &Verdict) -> Result<(), FaultReason> {
    let expected = round.debtors.len();
    if verdict.orders.len() != expected {
        return Err(FaultReason::Shape {
            what: "orders",
            expected,
            found: verdict.orders.len(),
        });
    }
    for (index, order) in verdict.orders.iter().enumerate() {
        if !COPIES.contains(&order.copies) {
            return out_of_range(format!(
                "order number {index} asks for {} copies of 1 to 4",
                order.copies
            ));
        }
    }
    if verdict.patience_us > MAX_PATIENCE_US {
        return out_of_range(format!(
            "a patience of {} s",
            verdict.patience_us / 1_000_000
        ));
    }
    Ok(())
}

/// One layer's scores: one a group, finite, non-negative.
pub(crate) fn scores(model: &Model, scores: &[f32]) -> Result<(), FaultReason> {
    let expected = model.groups as usize;
    if scores.len() != expected {
        return Err(FaultReason::Shape {
            what: "scores",
            expected,
            found: scores.len(),
        });
    }
    for (index, &value) in scores.iter().enumerate() {
        if !value.is_finite() {
            return Err(FaultReason::NotFinite {
                what: "score",
                index,
                value,
            });
        }
        if value < 0.0 {
            return out_of_range(format!("score number {index} is {value}"));
        }
    }
    Ok(())
}

fn out_of_range(words: String) -> Result<(), FaultReason> {
    Err(FaultReason::OutOfRange(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Order, Standby};

    fn sample() -> (Model, Vec<Device>, Placement) {
        let model = Model {
            layers: 2,
            width: 8,
            groups: 2,
            group_bytes: 10,
            ..Model::default()
        };
        let device = |leader, memory| Device {
            leader,
            speed: 1.0,
            memory,
            ..Device::default()
        };
        let placement = Placement {
            owners: vec![0, 1, 0, 1],
            ..Placement::default()
        };
        (model, vec![device(true, 40), device(false, 20)], placement)
    }

    #[test]
    fn a_good_placement_passes() {
        let (model, devices, mut given) = sample();
        assert_eq!(placement(&model, &devices, &given), Ok(()));
        given.standbys = vec![
            Standby {
                layer: 0,
                group: 1,
                device: 0,
            },
            Standby {
                layer: 1,
                group: 1,
                device: 0,
            },
        ];
        assert_eq!(placement(&model, &devices, &given), Ok(()));
    }

    #[test]
    fn bad_placements_are_named() {
        let (model, devices, good) = sample();
        let words = |change: &dyn Fn(&mut Placement)| {
            let mut given = good.clone();
            change(&mut given);
            placement(&model, &devices, &given).unwrap_err().to_string()
        };
        assert_eq!(
            words(&|p| _ = p.owners.pop()),
            "gave 3 owners where there must be 4"
        );
        assert!(words(&|p| p.owners[2] = 2).contains("owner number 2 is device 2 of 2"));
        assert!(words(&|p| p.owners[0] = 1).contains("3 groups (30 bytes)"));
        let standby = |layer, group, device| Standby {
            layer,
            group,
            device,
        };
        assert!(words(&|p| p.standbys = vec![standby(2, 0, 0)]).contains("group 0 of layer 2"));
        assert!(words(&|p| p.standbys = vec![standby(0, 0, 9)]).contains("device 9 of 2"));
        assert!(words(&|p| p.standbys = vec![standby(0, 0, 0)]).contains("holds already"));
        assert!(words(&|p| p.standbys = vec![standby(0, 1, 0); 2]).contains("holds already"));
        assert!(words(&|p| p.standbys = vec![standby(0, 0, 1)]).contains("3 groups (30 bytes)"));
    }

    #[test]
    fn bad_verdicts_are_named() {
        let round = Round {
            rows: 1,
            debtors: vec![crate::Debtor::default()],
            ..Round::default()
        };
        let order = |copies| Order {
            needed: true,
            copies,
        };
        let words = |orders: Vec<Order>, patience_us| {
            verdict(
                &round,
                &Verdict {
                    orders,
                    patience_us,
                },
            )
        };
        assert_eq!(words(vec![order(4)], 10), Ok(()));
        assert!(matches!(words(vec![], 10), Err(FaultReason::Shape { .. })));
        assert!(matches!(
            words(vec![order(0)], 10),
            Err(FaultReason::OutOfRange(_))
        ));
        assert!(matches!(
            words(vec![order(5)], 10),
            Err(FaultReason::OutOfRange(_))
        ));
        assert!(matches!(
            words(vec![order(1)], u32::MAX),
            Err(FaultReason::OutOfRange(_))
        ));
    }

    #[test]
    fn bad_questions_are_named() {
        let (good, list, _) = sample();
        assert_eq!(model(&good), Ok(()));
        assert_eq!(devices(&list), Ok(()));
        assert!(
            model(&Model {
                groups: 0,
                ..good.clone()
            })
            .is_err()
        );
        assert!(
            model(&Model {
                importance: vec![0.5],
                ..good.clone()
            })
            .is_err()
        );
        assert!(
            model(&Model {
                attention_cost: f32::NAN,
                ..good
            })
            .is_err()
        );
        assert!(devices(&[]).is_err());
        assert!(devices(&list[1..]).is_err());
        assert!(devices(&[list[0].clone(), list[0].clone()]).is_err());
    }
}
