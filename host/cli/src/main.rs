//! `halo`: LLaMA-family models across unequal machines and lossy networks.

#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    no_telemetry();
    halo_cli::main()
}

/// Keeps ONNX Runtime from calling home.
///
/// On Linux it does so by default since 1.29. Its function that switches telemetry off needs an environment, and making one
/// already writes an identifier into the user's cache folder and opens the uploader. Only this variable comes early enough.
#[allow(
    unsafe_code,
    reason = "there is no other way to set an environment variable of one's own process"
)]
fn no_telemetry() {
    // SAFETY: the process has one thread, so nobody reads the environment at the same time.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}
