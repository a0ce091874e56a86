//! WASI 0.2 for guests whose language insists on it: everything is there, and nothing can be done with it.
//!
//! The context is empty: no arguments, variables, files or network, standard input closed, output thrown away. Beyond that,
//! whatever waits is replaced. wasmtime-wasi waits inside the host, where no epoch deadline reaches, and on a tokio runtime,
//! which panics when the caller is on one of its threads already; a policy must be able to do neither. So writing to
//! standard output returns at once, and polling and sockets trap.

use wasmtime::{
    bail,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, bindings::sync::io::streams::StreamError,
};

use crate::guest::Guest;

/// Packages that a policy may import, at any 0.2 version.
const PACKAGES: [&str; 6] = [
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// Functions that trap, by interface.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    (
        "wasi:io/poll@0.2.12",
        &["poll", "[method]pollable.ready", "[method]pollable.block"],
    ),
    (
        "wasi:sockets/tcp-create-socket@0.2.12",
        &["create-tcp-socket"],
    ),
    (
        "wasi:sockets/udp-create-socket@0.2.12",
        &["create-udp-socket"],
    ),
    ("wasi:sockets/ip-name-lookup@0.2.12", &["resolve-addresses"]),
];

/// Whether `import` is a WASI interface that is linked.
pub(crate) fn is_known(import: &str) -> bool {
    let Some((interface, version)) = import.split_once('@') else {
        return false;
    };
    let Some((package, _)) = interface.split_once('/') else {
        return false;
    };
    PACKAGES.contains(&package) && version.starts_with("0.2.")
}

/// Adds WASI to `linker`.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    for (interface, functions) in FORBIDDEN {
        for function in functions {
            let name = format!("{interface}#{function}");
            linker
                .instance(interface)?
                .func_new(function, move |_, _, _, _| {
                    bail!("policies may not call {name}")
                })?;
        }
    }
    add_streams(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Standard streams that never wait: output goes nowhere, so it is always written; input is at its end.
fn add_streams(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    type Output = Resource<DynOutputStream>;
    type Input = Resource<DynInputStream>;
    type Written = Result<(), StreamError>;

    let mut streams = linker.instance("wasi:io/streams@0.2.12")?;
    streams.resource(
        "output-stream",
        ResourceType::host::<DynOutputStream>(),
        |mut store, handle| {
            store.data_mut().table().delete(Output::new_own(handle))?;
            Ok(())
        },
    )?;
    streams.resource(
        "input-stream",
        ResourceType::host::<DynInputStream>(),
        |mut store, handle| {
            store.data_mut().table().delete(Input::new_own(handle))?;
            Ok(())
        },
    )?;
    streams.func_wrap(
        "[method]output-stream.blocking-flush",
        |_, (_,): (Output,)| Ok((Written::Ok(()),)),
    )?;
    streams.func_wrap(
        "[method]output-stream.blocking-write-and-flush",
        |_, _: (Output, Vec<u8>)| Ok((Written::Ok(()),)),
    )?;
    streams.func_wrap(
        "[method]output-stream.blocking-write-zeroes-and-flush",
        |_, _: (Output, u64)| Ok((Written::Ok(()),)),
    )?;
    streams.func_wrap(
        "[method]output-stream.blocking-splice",
        |_, _: (Output, Input, u64)| Ok((Result::<u64, _>::Err(StreamError::Closed),)),
    )?;
    streams.func_wrap(
        "[method]input-stream.blocking-read",
        |_, _: (Input, u64)| Ok((Result::<Vec<u8>, _>::Err(StreamError::Closed),)),
    )?;
    streams.func_wrap(
        "[method]input-stream.blocking-skip",
        |_, _: (Input, u64)| Ok((Result::<u64, _>::Err(StreamError::Closed),)),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wasi_0_2_is_known() {
        assert!(is_known("wasi:cli/environment@0.2.0"));
        assert!(is_known("wasi:io/streams@0.2.6"));
        for import in [
            "wasi:http/types@0.2.0",
            "wasi:cli/environment@0.3.0",
            "wasi:cli",
            "wasi:cli@0.2.0",
            "env",
        ] {
            assert!(!is_known(import), "{import}");
        }
    }
}
