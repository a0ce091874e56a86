//! Which way messages really go: tensors over UDP in single datagrams, control over TCP; and through a router.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::nodes::{PATIENCE, config, free_port, id, large_packet, member, sees, until};
use halo_fabric::{Call, Fabric, HandlerFuture, Header, Kind, Mode};

/// What a relay has passed on.
#[derive(Debug, Default)]
struct Passed {
    datagrams: AtomicUsize,
    largest: AtomicUsize,
    /// When the last datagram of the first handshake came.
    linked: OnceLock<Instant>,
}

impl Passed {
    /// Counts a datagram. False if it is lost: those are that come for so long after a link was made.
    fn passes(&self, bytes: usize, lost: Duration) -> bool {
        let number = self.datagrams.fetch_add(1, Ordering::Relaxed) + 1;
        self.largest.fetch_max(bytes, Ordering::Relaxed);
        number <= HANDSHAKE || self.linked.get_or_init(Instant::now).elapsed() >= lost
    }
}

/// Datagrams with which zenoh makes a link.
const HANDSHAKE: usize = 4;

/// A relay between one UDP client and a server, which counts, and loses what comes for so long after a link was made.
fn relay(server: u16, lost: Duration) -> (u16, Arc<Passed>) {
    let front = UdpSocket::bind("127.0.0.1:0").unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").unwrap();
    back.connect(("127.0.0.1", server)).unwrap();
    let port = front.local_addr().unwrap().port();
    let passed = Arc::new(Passed::default());
    let client = Arc::new(Mutex::new(None::<SocketAddr>));
    std::thread::spawn({
        let (front, back) = (front.try_clone().unwrap(), back.try_clone().unwrap());
        let (client, passed) = (Arc::clone(&client), Arc::clone(&passed));
        move || {
            let mut buffer = [0; 65_536];
            while let Ok((bytes, from)) = front.recv_from(&mut buffer) {
                *client.lock().unwrap() = Some(from);
                if passed.passes(bytes, lost) {
                    drop(back.send(&buffer[..bytes]));
                }
            }
        }
    });
    std::thread::spawn({
        let passed = Arc::clone(&passed);
        move || {
            let mut buffer = [0; 65_536];
            while let Ok(bytes) = back.recv(&mut buffer) {
                let client = *client.lock().unwrap();
                if passed.passes(bytes, lost)
                    && let Some(client) = client
                {
                    drop(front.send_to(&buffer[..bytes], client));
                }
            }
        }
    });
    (port, passed)
}

fn echo(call: Call) -> HandlerFuture {
    Box::pin(async move { Ok(call.body) })
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_go_over_udp_in_one_datagram_and_control_over_tcp() {
    let port = free_port();
    let (relayed, passed) = relay(port, Duration::ZERO);
    // Names and cluster as long as they may be, for the longest keys.
    let names = ["a".repeat(63), "b".repeat(63)];
    let mut configs = [
        config(&names[0], port, &[]),
        config(&names[1], free_port(), &[]),
    ];
    configs[1].connect = vec![
        format!("tcp/127.0.0.1:{port}?rel=1"),
        format!("udp/127.0.0.1:{relayed}?rel=0"),
    ];
    for config in &mut configs {
        config.cluster = "c".repeat(63);
    }
    let [a, b] = configs;
    let (a, b) = (member(a).await, member(b).await);
    for node in [&a, &b] {
        sees(node, &[&names[0], &names[1]]).await;
    }
    until("the links over UDP are up", || {
        let alive = |from: &Fabric, to: &Fabric| {
            let link = from.link(to.node()).unwrap();
            link.estimate().last_heard.is_some()
        };
        alive(&a, &b) && alive(&b, &a) && passed.datagrams.load(Ordering::Relaxed) > 8
    })
    .await;

    let before = passed.datagrams.load(Ordering::Relaxed);
    let (header, body) = large_packet();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let link = from.link(to.node()).unwrap();
        for step in 0..100 {
            link.send(Header { step, ..header }, &body);
            until("the packet arrives", || {
                to.counters().received_of(Kind::Activation).packets > u64::from(step)
            })
            .await;
        }
    }
    let sent = passed.datagrams.load(Ordering::Relaxed) - before;
    assert!(sent >= 200, "{sent} datagrams for 200 packets");
    let largest = passed.largest.load(Ordering::Relaxed);
    assert!(
        (halo_fabric::MAX_PACKET_BYTES + 1..=1400).contains(&largest),
        "{largest}"
    );

    // Two million bytes each way are more than 2,000 datagrams; heartbeats and keep-alives are a few.
    let _service = b.serve(echo).await.unwrap();
    let before = passed.datagrams.load(Ordering::Relaxed);
    let large = "x".repeat(2_000_000);
    let answer: String = a.call(b.node(), "echo", &large, PATIENCE).await.unwrap();
    assert_eq!(answer, large);
    let meanwhile = passed.datagrams.load(Ordering::Relaxed) - before;
    assert!(meanwhile < 500, "{meanwhile} datagrams during a call");
}

/// What a session declares when a link comes up is told over that link, once.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_hear_each_other_though_all_declarations_were_lost() {
    let port = free_port();
    // The first time that they are told anew, too.
    let lost = Duration::from_millis(2_500);
    let (relayed, passed) = relay(port, lost);
    let a = member(config("a", port, &[])).await;
    let mut settings = config("b", free_port(), &[]);
    settings.listen = vec![format!("tcp/127.0.0.1:{}?rel=1", free_port())];
    settings.connect = vec![
        format!("tcp/127.0.0.1:{port}?rel=1"),
        format!("udp/127.0.0.1:{relayed}?rel=0"),
    ];
    let b = member(settings).await;
    assert!(a.hears(b.node(), PATIENCE).await);
    assert!(b.hears(a.node(), PATIENCE).await);
    let linked = passed.linked.get().expect("a link");
    assert!(linked.elapsed() > lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_router_meet() {
    let port = free_port();
    let mut settings = zenoh::Config::default();
    for (key, value) in [
        ("mode", "\"router\"".to_owned()),
        (
            "listen/endpoints",
            format!("[\"tcp/127.0.0.1:{port}?rel=1\", \"udp/127.0.0.1:{port}?rel=0\"]"),
        ),
        ("scouting/multicast/enabled", "false".to_owned()),
    ] {
        settings.insert_json5(key, &value).unwrap();
    }
    let router = zenoh::open(settings).await.unwrap();

    let client = |name: &str| {
        let mut config = config(name, 0, &[port]);
        config.listen.clear();
        config.mode = Mode::Client;
        config
    };
    let (a, b) = (member(client("a")).await, member(client("b")).await);
    for node in [&a, &b] {
        sees(node, &["a", "b"]).await;
    }
    assert!(a.endpoints().is_empty());

    // Each client has a link over TCP and one over UDP.
    let links: Vec<_> = router.info().links().await.collect();
    for protocol in ["tcp", "udp"] {
        let count = links
            .iter()
            .filter(|link| link.src().protocol().as_str() == protocol)
            .count();
        assert_eq!(count, 2, "{protocol}: {links:?}");
    }

    let _service = b.serve(echo).await.unwrap();
    let answer: u32 = a.call(b.node(), "echo", &7, PATIENCE).await.unwrap();
    assert_eq!(answer, 7);

    let (header, body) = large_packet();
    let link = a.link(&id("b")).unwrap();
    for step in 0..100 {
        link.send(Header { step, ..header }, &body);
        until("the packet arrives", || {
            b.counters().received_of(Kind::Activation).packets > u64::from(step)
        })
        .await;
    }
    b.close().await;
    sees(&a, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_router_gives_up() {
    let mut config = config("a", 0, &[free_port()]);
    config.listen.clear();
    config.mode = Mode::Client;
    let opened = tokio::time::timeout(Duration::from_secs(60), Fabric::open(config)).await;
    let error = opened.expect("an error in time").unwrap_err();
    assert!(
        matches!(error, halo_fabric::FabricError::CannotConnect { .. }),
        "{error}"
    );
}
