//! `scheduler-even`: every device gets the same number of groups as far as its memory allows, every round waits for
//! everybody, every packet is sent once.
//!
//! The simplest scheduler there can be, and the one to compare others with. It has no settings.

mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "scheduler-policy", path: "../../wit" });
    use super::Even;
    export!(Even);
}
mod shares;

use bindings::exports::halo::policy::scheduler::{Device, Guest, Order, Placement, Round, Verdict};
use bindings::halo::policy::types::{Model, Setting};

struct Even;

impl Guest for Even {
    fn init(settings: Vec<Setting>) -> Result<(), String> {
        match settings.first() {
            None => Ok(()),
            Some(setting) => Err(format!(
                "scheduler-even has no settings, so no {:?}",
                setting.key
            )),
        }
    }

    fn place(
        model: Model,
        devices: Vec<Device>,
        _current: Option<Placement>,
    ) -> Result<Placement, String> {
        shares::place(&model, &devices)
    }

    fn admit(round: Round) -> Verdict {
        let latest = round.debtors.iter().map(|debtor| debtor.expected_us).max();
        Verdict {
            orders: vec![
                Order {
                    needed: true,
                    copies: 1
                };
                round.debtors.len()
            ],
            // Nobody is merely waited for with patience, so this only has to be something sensible.
            patience_us: latest.unwrap_or(0),
        }
    }
}
