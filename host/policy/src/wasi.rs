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
    use wasmtime::{Config, Engine, Store, component::Component};

    use super::*;
    use crate::Limits;

    /// Calls the function `run` of a component, on a thread of a tokio runtime.
    fn run(text: &str) -> wasmtime::Result<()> {
        let engine = Engine::new(Config::new().wasm_component_model(true))?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker)?;
        let bytes = wat::parse_str(text).unwrap();
        let component = Component::new(&engine, bytes)?;
        let mut store = Store::new(&engine, Guest::new("test".into(), &Limits::default()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let instance = linker.instantiate(&mut store, &component)?;
            instance
                .get_typed_func::<(), ()>(&mut store, "run")?
                .call(&mut store, ())
        })
    }

    /// With wasmtime-wasi's own functions, this panics on a thread of a runtime.
    #[test]
    fn writing_to_standard_error_does_nothing_and_does_not_wait() {
        run(r#"
        (component
          (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
          (alias export $error "error" (type $error-type))
          (import "wasi:io/streams@0.2.0" (instance $streams
            (export "output-stream" (type $stream (sub resource)))
            (alias outer 1 $error-type (type $outer-error))
            (export "error" (type $own-error (eq $outer-error)))
            (type $failure (variant (case "last-operation-failed" (own $own-error)) (case "closed")))
            (export "stream-error" (type $stream-error (eq $failure)))
            (export "[method]output-stream.blocking-write-and-flush"
              (func (param "self" (borrow $stream)) (param "contents" (list u8))
                (result (result (error $stream-error)))))))
          (alias export $streams "output-stream" (type $stream-type))
          (import "wasi:cli/stderr@0.2.0" (instance $stderr
            (alias outer 1 $stream-type (type $outer-stream))
            (export "output-stream" (type $own-stream (eq $outer-stream)))
            (export "get-stderr" (func (result (own $own-stream))))))
          (core module $memory (memory (export "memory") 1))
          (core instance $memory (instantiate $memory))
          (core func $get (canon lower (func $stderr "get-stderr")))
          (core func $write (canon lower
            (func $streams "[method]output-stream.blocking-write-and-flush")
            (memory $memory "memory")))
          (core func $drop (canon resource.drop $stream-type))
          (core module $main
            (import "" "get" (func $get (result i32)))
            (import "" "write" (func $write (param i32 i32 i32 i32)))
            (import "" "drop" (func $drop (param i32)))
            (import "" "memory" (memory 1))
            (func (export "run") (local $stream i32)
              (local.set $stream (call $get))
              (call $write (local.get $stream) (i32.const 0) (i32.const 5) (i32.const 16))
              (if (i32.load8_u (i32.const 16)) (then unreachable))
              (call $drop (local.get $stream))))
          (core instance $main (instantiate $main (with "" (instance
            (export "get" (func $get))
            (export "write" (func $write))
            (export "drop" (func $drop))
            (export "memory" (memory $memory "memory"))))))
          (func (export "run") (canon lift (core func $main "run"))))
        "#)
        .unwrap();
    }

    #[test]
    fn waiting_for_a_clock_traps() {
        let error = run(r#"
        (component
          (import "wasi:io/poll@0.2.0" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
          (alias export $poll "pollable" (type $pollable-type))
          (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (alias outer 1 $pollable-type (type $outer))
            (export "pollable" (type $own (eq $outer)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $own))))))
          (core func $subscribe (canon lower (func $clock "subscribe-duration")))
          (core func $block (canon lower (func $poll "[method]pollable.block")))
          (core module $main
            (import "" "subscribe" (func $subscribe (param i64) (result i32)))
            (import "" "block" (func $block (param i32)))
            (func (export "run") (call $block (call $subscribe (i64.const 1000000000000)))))
          (core instance $main (instantiate $main (with "" (instance
            (export "subscribe" (func $subscribe))
            (export "block" (func $block))))))
          (func (export "run") (canon lift (core func $main "run"))))
        "#)
        .unwrap_err();
        assert!(
            error.root_cause().to_string().contains("pollable.block"),
            "{error:?}"
        );
    }

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
