//! `scheduler-next`: a scheduler that was built for a next version of the contract, and uses the field that is new there. For
//! tests only.

mod bindings {
    #![allow(missing_docs, reason = "generated; the test's policy.wit documents it")]
    wit_bindgen::generate!({ world: "scheduler-policy", path: "../../../host/policy/tests/wit-0.2" });
    use super::Next;
    export!(Next);
}

use bindings::exports::halo::policy::scheduler::{Device, Guest, Order, Placement, Round, Verdict};
use bindings::halo::policy::types::{Model, Setting};

struct Next;

impl Guest for Next {
    fn init(_settings: Vec<Setting>) -> Result<(), String> {
        bindings::halo::policy::host::log("built for 0.2");
        Ok(())
    }

    /// Everything on the device that reads weights fastest.
    fn place(
        model: Model,
        devices: Vec<Device>,
        _current: Option<Placement>,
    ) -> Result<Placement, String> {
        let speed = |i: &usize| devices[*i].bytes_per_second;
        let fastest = (0..devices.len()).max_by(|a, b| speed(a).total_cmp(&speed(b)));
        let fastest = fastest.ok_or("no devices")? as u32;
        Ok(Placement {
            owners: vec![fastest; (model.layers * model.groups) as usize],
            standbys: Vec::new(),
            token_us: speed(&(fastest as usize)) as u32,
        })
    }

    fn admit(round: Round) -> Verdict {
        let order = Order {
            needed: true,
            copies: 1,
        };
        Verdict {
            orders: vec![order; round.debtors.len()],
            patience_us: 0,
        }
    }
}
