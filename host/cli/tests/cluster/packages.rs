//! Workers without a model are given one, whatever happens on the way.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use halo_fabric::{Call, Fabric, FabricConfig, HandlerFuture, Service};
use halo_models::{Package, PieceList};
use halo_runtime::packages::{Taking, Wanted};
use serde_json::Value;

use crate::cluster::{Cluster, Setup, evenly};
use crate::model::{Model, right_tokens};
use crate::process::HANG;

const TOKENS: usize = 24;

/// What a node logs when it begins or goes on with a package.
const FETCHING: &str = "fetching a package";

fn lossy() -> Cluster {
    let setup = Setup {
        loss: 0.1,
        ..Setup::default()
    };
    Cluster::start(setup, 0)
}

fn generates_right(cluster: &Cluster) {
    let leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    assert_eq!(leader.shares.len(), 1 + cluster.workers.len());
    assert_eq!(leader.finish().report.tokens, right_tokens(TOKENS));
}

fn run(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

/// What a push says of each node.
fn answers(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn a_worker_is_pushed_a_model_and_has_it_after_a_restart() {
    let mut cluster = lossy();
    for name in ["first", "second"] {
        cluster.start_bare(name, &[]).wait_for("waiting");
    }
    let output = run(cluster.pushing(&[]));
    assert!(output.status.success(), "{output:?}");
    let nodes = answers(&output);
    assert_eq!(nodes.len(), 2);
    let name = Model::Exact.package().name().to_owned();
    assert!(
        nodes.iter().all(|n| n["serves"] == name.as_str()),
        "{nodes:?}"
    );
    for worker in &mut cluster.workers {
        worker.wait_ready();
        assert_eq!(worker.process.log.count(&[FETCHING]), 1);
    }
    generates_right(&cluster);

    cluster.workers[0].process.kill();
    let worker = cluster.start_bare("first", &[]);
    worker.wait_ready();
    generates_right(&cluster);
    assert!(
        run(cluster.pushing(&[])).status.success(),
        "there is nothing to do"
    );
    for worker in &cluster.workers {
        let times = usize::from(worker.name == "second");
        assert_eq!(
            worker.process.log.count(&[FETCHING]),
            times,
            "{}",
            worker.name
        );
    }
}

#[test]
fn a_leader_gives_what_it_computes_with() {
    let mut cluster = lossy();
    cluster.start_bare("bare", &[]).wait_for("waiting");
    generates_right(&cluster);
    cluster.workers[0].wait_ready();
}

/// Bytes of a package that have come so far.
fn arrived(cache: &Path) -> u64 {
    let folders = fs::read_dir(cache).into_iter().flatten().flatten();
    let files = folders.filter_map(|folder| fs::read_dir(folder.path()).ok());
    let lengths = files.flatten().flatten().filter_map(|f| f.metadata().ok());
    lengths.map(|metadata| metadata.len()).sum()
}

/// Begins a push that is slow, and returns when so many bytes have come.
fn push_until(cluster: &Cluster, bytes: u64) -> Child {
    let mut command = cluster.pushing(&["--rate", "4MB"]);
    let push = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let push = push.expect("the program starts");
    let end = Instant::now() + HANG;
    while arrived(&cluster.cache("bare")) < bytes {
        assert!(Instant::now() < end, "{bytes} bytes have not come");
        std::thread::sleep(Duration::from_millis(5));
    }
    push
}

fn end(mut process: Child) {
    process.kill().expect("it can be killed");
    process.wait().expect("its end");
}

/// Bytes that were there each time a worker began or went on.
fn had(cluster: &Cluster) -> Vec<u64> {
    let lines = cluster.workers[0].process.log.lines();
    let lines = lines.iter().filter(|line| line.contains(FETCHING));
    let had = lines.map(|line| {
        let number = line.split("have=").nth(1).expect("how much it had");
        let digits = number.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|d| d.parse().ok()).expect("a number")
    });
    had.collect()
}

#[test]
fn a_push_goes_on_at_the_piece_whoever_was_killed() {
    const MEGABYTE: u64 = 1 << 20;
    const PIECE: u64 = halo_models::PIECE_BYTES as u64;
    let mut cluster = lossy();
    cluster.start_bare("bare", &[]).wait_for("waiting");
    end(push_until(&cluster, MEGABYTE));
    let push = push_until(&cluster, 3 * MEGABYTE);
    let had_before = had(&cluster);
    assert!(
        matches!(had_before[..], [0, second] if second >= MEGABYTE - PIECE),
        "{had_before:?}"
    );

    cluster.workers[0].process.kill();
    let here = arrived(&cluster.cache("bare"));
    end(push);
    // No model is visible before it is whole.
    cluster.start_bare("bare", &[]).wait_for("waiting");
    let output = run(cluster.pushing(&[]));
    assert!(output.status.success(), "{output:?}");
    let had_now = had(&cluster);
    assert!(
        matches!(had_now[..], [had] if had + PIECE > here && had <= here),
        "{had_now:?} of {here}"
    );
    cluster.workers[0].wait_ready();
    generates_right(&cluster);
}

#[test]
fn what_does_not_fit_is_refused_by_the_node_and_in_the_push() {
    let mut cluster = lossy();
    cluster
        .start_bare("bare", &["--cache-limit", "1MB"])
        .wait_for("waiting");
    let output = run(cluster.pushing(&[]));
    assert_eq!(output.status.code(), Some(1));
    let nodes = answers(&output);
    let error = nodes[0]["error"].as_str().expect("an error");
    assert!(
        error.starts_with("bare: packages from other nodes may take 1000000 bytes in "),
        "{error}"
    );
}

/// Gives the exact model's package, but flips a bit of one piece this often. Gives also what is to be taken, and the piece.
async fn liar(cluster: &Cluster, times: usize) -> (Fabric, Service, Wanted, String) {
    let package = Model::Exact.package();
    let list = Arc::new(PieceList::of(&package, |_, _| ()).expect("a list"));
    let wanted = Wanted {
        name: list.name().into(),
        digest: list.digest(),
        identity: list.identity(),
    };
    let fabric = Fabric::open(FabricConfig {
        cluster: cluster.name().into(),
        connect: vec![format!("127.0.0.1:{}", cluster.workers[0].port)],
        scouting: false,
        ..FabricConfig::new(format!("liar-{times}").parse().expect("a name"))
    });
    let fabric = fabric.await.expect("a network");
    let flipped = Arc::new(AtomicUsize::new(0));
    let file = "layer-002.safetensors";
    let serving = fabric.serve_bulk(move |call: Call| -> HandlerFuture<Vec<u8>> {
        let (package, list, flipped) = (package.clone(), list.clone(), flipped.clone());
        Box::pin(async move {
            if call.operation == "model-list" {
                return Ok(list.bytes().to_vec());
            }
            Ok(piece(&package, &call.body, |name, number| {
                name == file && number == 1 && flipped.fetch_add(1, Ordering::Relaxed) < times
            }))
        })
    });
    let serving = serving.await.expect("a service");
    (fabric, serving, wanted, format!("piece 1 of {file}"))
}

fn piece(package: &Package, asked: &Value, wrong: impl FnOnce(&str, u64) -> bool) -> Vec<u8> {
    let (file, number) = (asked["file"].as_str(), asked["piece"].as_u64());
    let (file, number) = (file.expect("a file"), number.expect("a number"));
    let mut bytes = package.piece(file, number).expect("a piece");
    if wrong(file, number) {
        bytes[1000] ^= 1;
    }
    bytes
}

/// Has the worker take a package.
async fn take(fabric: &Fabric, wanted: &Wanted) {
    let node = "bare".parse().expect("a name");
    let begun = fabric.call::<_, Taking>(&node, "model-take", wanted, HANG);
    begun.await.expect("an answer");
}

/// Waits until the worker has given up a package, and gives the reason.
async fn refusal(fabric: &Fabric, wanted: &Wanted) -> String {
    let node = "bare".parse().expect("a name");
    loop {
        let taking = fabric.call::<_, Option<Taking>>(&node, "model-taking", wanted, HANG);
        match taking.await.expect("an answer") {
            Some(Taking::Failed { why }) => return why,
            Some(Taking::Fetches { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("it took a damaged package: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_piece_is_asked_for_again_and_a_liar_is_refused() {
    let mut cluster = lossy();
    cluster.start_bare("bare", &[]).wait_for("waiting");
    let (fabric, _serving, wanted, piece) = liar(&cluster, usize::MAX).await;
    take(&fabric, &wanted).await;
    let why = refusal(&fabric, &wanted).await;
    let expected = format!(
        "liar-{} gave the same 3 times: {piece} has SHA-256 ",
        usize::MAX
    );
    assert!(why.starts_with(&expected), "{why}");
    fabric.close().await;

    let (fabric, _serving, wanted, piece) = liar(&cluster, 2).await;
    take(&fabric, &wanted).await;
    cluster.workers[0].wait_ready();
    let log = &cluster.workers[0].process.log;
    assert_eq!(log.count(&[&piece, "asking again", "from=liar-2"]), 2);
    fabric.close().await;
}
