//! Loss on the wire itself: zenoh's datagrams go through relays that drop some of them.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use halo_fabric::{FaultInjector, Faults, Loss};

use crate::cluster::{Cluster, Setup};
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

/// A relay between one UDP client and a server that drops a share of what comes by.
#[derive(Debug)]
struct Relay {
    port: u16,
    counts: Arc<Counts>,
}

impl Relay {
    fn start(server: u16, seed: u64) -> Self {
        let socket = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (front, back) = (socket(), socket());
        back.connect(("127.0.0.1", server)).expect("an address");
        let port = front.local_addr().expect("an address").port();
        let counts = Arc::new(Counts::default());
        let client = Arc::new(Mutex::new(None::<SocketAddr>));
        let (front, back) = (Arc::new(front), Arc::new(back));

        let mut drops = Drops::new(seed, &counts);
        let (from, to, known) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&client));
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((bytes, address)) = from.recv_from(&mut buffer) {
                *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                if !drops.this_one() {
                    // Nobody may listen there yet; then it is lost, which is what this is about.
                    let _ = to.send(&buffer[..bytes]);
                }
            }
        });
        let mut drops = Drops::new(!seed, &counts);
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            loop {
                // An error tells that nobody listens there yet.
                let Ok(bytes) = back.recv(&mut buffer) else {
                    continue;
                };
                let client = *client.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(client) = client.filter(|_| !drops.this_one()) {
                    let _ = front.send_to(&buffer[..bytes], client);
                }
            }
        });
        Self { port, counts }
    }
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
    let options = [
        "--sync",
        "strict",
        "--scheduler",
        "scheduler-even",
        "--wire",
        "f32",
    ];
    let generation = cluster.lead_over(&endpoints, TOKENS, &options).finish();
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
