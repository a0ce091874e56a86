//! The two worlds of `wit/policy.wit`, as wasmtime's `bindgen!` reads them. Private: the crate's own types are its interface.

pub(crate) mod scheduler {
    wasmtime::component::bindgen!({ world: "scheduler-policy", path: "../../wit" });
}

pub(crate) mod predictor {
    wasmtime::component::bindgen!({
        world: "predictor-policy",
        path: "../../wit",
        // One set of shared types and one `log` serve both worlds.
        with: {
            "halo:policy/types": super::scheduler::halo::policy::types,
            "halo:policy/host": super::scheduler::halo::policy::host,
        },
    });
}
