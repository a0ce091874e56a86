//! Loss on the wire itself: zenoh's datagrams go through relays that drop some of them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use halo_fabric::{FaultInjector, Faults, Loss};

use crate::cluster::{Cluster, Setup, evenly};
use crate::model::right_tokens;

const TOKENS: usize = 64;

/// Share of datagrams dropped each way.
const RATE: f64 = 0.05;

/// What a relay has done with datagrams, both ways together.
#[derive(Debug, Default)]
struct Counts {
    passed: AtomicU64,
    dropped: AtomicU64,
}

/// A relay in front of a UDP server that drops a share of what comes by. As a router does, it keeps its clients apart.
#[derive(Debug)]
struct Relay {
    port: u16,
    counts: Arc<Counts>,
}

impl Relay {
    fn start(server: u16, seed: u64) -> Self {
        let front = Arc::new(socket());
        let port = front.local_addr().expect("an address").port();
        let counts = Arc::new(Counts::default());
        let mut to_server = Drops::new(2 * seed, &counts);
        let counted = Arc::clone(&counts);
        std::thread::spawn(move || {
            let mut clients: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
            let mut buffer = [0; 65_536];
            while let Ok((bytes, client)) = front.recv_from(&mut buffer) {
                let back = clients.entry(client).or_insert_with(|| {
                    let back = Arc::new(socket());
                    back.connect(("127.0.0.1", server)).expect("an address");
                    let drops = Drops::new(2 * seed + 1, &counted);
                    answer(Arc::clone(&back), Arc::clone(&front), client, drops);
                    back
                });
                if !to_server.this_one() {
                    // Nobody may listen there any more; then it is lost, which is what this is about.
                    let _ = back.send(&buffer[..bytes]);
                }
            }
        });
        Self { port, counts }
    }
}

/// Passes the server's datagrams on to one client.
fn answer(back: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, mut drops: Drops) {
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(bytes) = back.recv(&mut buffer) {
            if !drops.this_one() {
                let _ = front.send_to(&buffer[..bytes], client);
            }
        }
    });
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a socket")
}

/// Decides about the datagrams of one direction.
struct Drops {
    injector: FaultInjector,
    counts: Arc<Counts>,
}

impl Drops {
    fn new(seed: u64, counts: &Arc<Counts>) -> Self {
        let faults = Faults {
            loss: Loss::Random { rate: RATE },
            seed,
        };
        Self {
            injector: FaultInjector::new(&faults).expect("a possible rate"),
            counts: Arc::clone(counts),
        }
    }

    fn this_one(&mut self) -> bool {
        let dropped = self.injector.loses();
        let count = if dropped {
            &self.counts.dropped
        } else {
            &self.counts.passed
        };
        count.fetch_add(1, Ordering::Relaxed);
        dropped
    }
}

#[test]
fn datagrams_lost_on_the_wire_change_nothing() {
    let cluster = Cluster::start(Setup::default(), 3);
    let relays: Vec<Relay> = (1..)
        .zip(&cluster.workers)
        .map(|(seed, worker)| Relay::start(worker.port, seed))
        .collect();
    let endpoints: Vec<String> = cluster
        .workers
        .iter()
        .zip(&relays)
        .flat_map(|(worker, relay)| {
            [
                format!("tcp/127.0.0.1:{}?rel=1", worker.port),
                format!("udp/127.0.0.1:{}?rel=0", relay.port),
            ]
        })
        .collect();
    let leader = cluster.lead_over(&endpoints, TOKENS, &evenly("strict", "f32"));
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));

    let counts = &generation.report.counts;
    assert!(counts.asked_again > 0, "{counts:?}");
    assert_eq!(counts.concealed_partials, 0);
    let total = |count: fn(&Counts) -> &AtomicU64| -> u64 {
        relays
            .iter()
            .map(|r| count(&r.counts).load(Ordering::Relaxed))
            .sum()
    };
    let (passed, dropped) = (total(|c| &c.passed), total(|c| &c.dropped));
    // The tensors went this way. Those that wait for one another may share a datagram, so there can be fewer datagrams than
    // packets, but not by much.
    let packets = counts.packets_sent + counts.packets_received;
    assert!(
        10 * (passed + dropped) >= 9 * packets,
        "{passed} passed and {dropped} dropped of {counts:?}"
    );
    for relay in &relays {
        assert!(
            relay.counts.dropped.load(Ordering::Relaxed) > 0,
            "{relay:?}"
        );
    }
}
