//! `scheduler-halo`: who computes what by speed, links and importance; whom to wait for by how much it matters.
//!
//! Placing (see `place.rs` and `time.rs`): each layer is shared out so that it is expected to be done soonest, the most
//! important groups to the most stable devices. Admitting (see `admit.rs`): a token may go without a small share of its
//! predicted contribution, and only what fits into that budget is not waited for.
//!
//! | setting | default | meaning |
//! | --- | --- | --- |
//! | `budget` | 0.02 | share of predicted contribution that a token may go without, averaged over its rounds |
//! | `needed-share` | 0.5 | debtors with more than this share of a layer are always waited for |
//! | `double-loss` | 0.12 | packets are sent twice over links that lose more than this, there and back together |
//! | `hysteresis` | 0.1 | a new placement must save this share of the time, or the old one stays |
//! | `standbys` | 0.125 | share of each worker's groups that another device keeps loaded |

mod admit;
mod bindings {
    #![allow(missing_docs, reason = "generated; wit/policy.wit documents it")]
    wit_bindgen::generate!({ world: "scheduler-policy", path: "../../wit" });
    use super::Halo;
    export!(Halo);
}
mod cluster;
mod owners;
mod place;
mod settings;
mod shares;
mod standbys;
#[cfg(test)]
mod tests;
mod time;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bindings::exports::halo::policy::scheduler::{Device, Guest, Placement, Round, Verdict};
use bindings::halo::policy::types::{Model, Setting};
use settings::Settings;

static SETTINGS: OnceLock<Settings> = OnceLock::new();
/// Of the model that was placed last.
static LAYERS: AtomicU32 = AtomicU32::new(0);

struct Halo;

impl Guest for Halo {
    fn init(settings: Vec<Setting>) -> Result<(), String> {
        let settings = Settings::read(&settings)?;
        SETTINGS
            .set(settings)
            .map_err(|_| "init was called twice".to_owned())
    }

    fn place(
        model: Model,
        devices: Vec<Device>,
        current: Option<Placement>,
    ) -> Result<Placement, String> {
        LAYERS.store(model.layers, Ordering::Relaxed);
        place::place(settings(), &model, &devices, current)
    }

    fn admit(round: Round) -> Verdict {
        admit::admit(settings(), LAYERS.load(Ordering::Relaxed), &round)
    }
}

fn settings() -> &'static Settings {
    SETTINGS.get_or_init(Settings::default)
}
