//! `halo`: LLaMA-family models across unequal machines and lossy networks.

#![deny(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

fn main() {
    set_environment();
    give_memory_back();
    halo_runtime::memory::give_back_by(trim);
    let code = halo_cli::main();
    // What cannot be written any more has no reader left.
    let _ = std::io::stdout().flush();
    end(i32::from(code != ExitCode::SUCCESS))
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

/// Ends the process without the libraries' own last acts.
///
/// ONNX Runtime's would take away what its sessions are made of while a thread may still be making one: a text can be finished before
/// the model is loaded, and `halo run` then ended with SIGABRT. To wait for such threads would be to wait for the disk.
#[allow(unsafe_code, reason = "Rust has no function for it")]
fn end(code: i32) -> ! {
    // SAFETY: nothing runs in this process after it.
    unsafe { libc::_exit(code) }
}

/// Has whatever is large given back to the system when it is freed.
///
/// glibc begins with that, but learns from each large block that is freed to keep the next ones of its size for itself. Placements
/// come and go, and between their matrices on a heap there is always something small that stays, so the heap stays as large as it has
/// ever been; and while weights are packed, each matrix is in memory twice for a moment. A worker of the small model that had nothing
/// loaded any more took 95 MB after five minutes of placements, and takes some 25 MB if their matrices are given back. In return, what a
/// long prompt needs for a moment is given back too, which is some 2 % of its time.
///
/// And glibc has up to eight heaps a core, so that threads need not wait for one another. A worker loads each placement on whatever
/// thread is free, so all of them would grow. Nothing here allocates often enough to wait.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc is told by a C function")]
fn give_memory_back() {
    // What glibc begins with. More than a packet takes, less than a worker's part of a matrix in all but very small models.
    const LARGE: i32 = 128 << 10;
    // SAFETY: these set three numbers, before any other thread could allocate.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        // By default 128 kB at the end of the heap are given back too, which every token takes again.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives back what is free on the heaps, in whole pages: they grow a little whenever more than ever is loaded at once.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc is told by a C function")]
fn trim() {
    // SAFETY: this touches free memory only, and takes the heaps' locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_memory_back() {}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    /// What this process has of the memory, in bytes, without mapped files.
    fn taken() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mut lines = status.lines();
        let anonymous = lines.find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = anonymous.unwrap().trim().trim_end_matches(" kB");
        1024 * kilobytes.parse::<usize>().unwrap()
    }

    /// Loads and frees blocks of so many bytes, with something small between them that stays. Gives how many they had in all, and how
    /// many are kept.
    fn kept_of(block: usize, and_then: fn()) -> (usize, usize) {
        let before = taken();
        let mut stays = Vec::new();
        let load = |_| {
            let block = vec![1u8; block];
            stays.push(Box::new([1u8; 64]));
            block
        };
        let blocks: Vec<Vec<u8>> = (0..(40 << 20) / block).map(load).collect();
        let all = blocks.len() * block;
        let loaded = taken().saturating_sub(before);
        assert!(loaded >= all, "{loaded} of {all}");
        drop(blocks);
        and_then();
        (all, taken().saturating_sub(before))
    }

    #[test]
    fn what_a_placement_took_is_given_back() {
        super::give_memory_back();
        // A quarter of a matrix of the model that comes with this, in 32 bits.
        let (all, kept) = kept_of(192 * 256 * 4, || ());
        assert!(kept < all / 10, "{kept} of {all} bytes are kept");
        let (all, kept) = kept_of(48 << 10, super::trim);
        assert!(kept < all / 4, "{kept} of {all} bytes are kept");
    }
}
