//! `halo`: LLaMA-family models across unequal machines and lossy networks.

#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    set_environment();
    give_memory_back();
    halo_cli::main()
}

/// Keeps ONNX Runtime from calling home, and zenoh from passing packets through one thread after the other.
///
/// ONNX Runtime does call home on Linux by default since 1.29. Its function that switches telemetry off needs an environment, and
/// making one already writes an identifier into the user's cache folder and opens the uploader. Only this variable comes early enough.
#[allow(
    unsafe_code,
    reason = "there is no other way to set an environment variable of one's own process"
)]
fn set_environment() {
    let (threads, few) = halo_cli::ZENOH_THREADS;
    let asked_for = std::env::var_os(threads).is_some();
    // SAFETY: the process has one thread, so nobody reads the environment at the same time.
    unsafe {
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
        if !asked_for {
            std::env::set_var(threads, few);
        }
    }
}

/// Has whatever is large given back to the system when it is freed.
///
/// glibc learns from the first large block that is freed to keep the next ones for itself. While weights are packed, each
/// matrix is in memory twice for a moment, and the gaps that this leaves would stay: a quarter of a 1.1B model's size.
///
/// And it has up to eight heaps a core, so that threads need not wait for one another, each of which keeps what was freed in it. A
/// worker loads each placement on whatever thread is free; in two minutes of placements that came and went it grew by 60 MB
/// with the heaps of two cores, and by 30 MB with two. Nothing here allocates often enough to wait.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc is told by a C function")]
fn give_memory_back() {
    const LARGE: i32 = 1 << 20;
    // SAFETY: these set three numbers, before any other thread could allocate.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        // By default 128 kB at the end of the heap are given back too, which every token takes again.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 * LARGE);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}
