//! A relay in front of a node, through which others reach it: it loses datagrams, and can cut either way.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use halo_fabric::{FaultInjector, Faults, Loss};

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the node behind the relay.
    There,
    /// From it.
    Back,
}

/// A relay on one port of TCP and UDP. As a router does, it keeps its clients apart.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) port: u16,
    ways: [Arc<State>; 2],
}

/// What becomes of one direction.
#[derive(Debug)]
struct State {
    /// Nothing passes; connections stay open.
    cut: AtomicBool,
    losses: Mutex<FaultInjector>,
    passed: AtomicU64,
    dropped: AtomicU64,
}

impl Relay {
    /// A relay to a port, which loses so many of the datagrams each way.
    pub(crate) fn start(server: u16, loss: f64, seed: u64) -> Self {
        let state = |seed| {
            let loss = Loss::Random { rate: loss };
            Arc::new(State {
                cut: AtomicBool::new(false),
                losses: Mutex::new(FaultInjector::new(&Faults { loss, seed }).expect("a rate")),
                passed: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            })
        };
        let ways = [state(2 * seed), state(2 * seed + 1)];
        let (tcp, udp) = listen();
        let port = udp.local_addr().expect("an address").port();
        datagrams(udp, server, ways.clone());
        connections(tcp, server, ways.clone());
        Self { port, ways }
    }

    /// Lets nothing pass this way, or everything again.
    pub(crate) fn cut(&self, way: Way, cut: bool) {
        self.ways[way as usize].cut.store(cut, Ordering::Relaxed);
    }

    /// Datagrams that it has passed on and dropped, both ways together.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let total = |count: fn(&State) -> &AtomicU64| {
            self.ways
                .iter()
                .map(|state| count(state).load(Ordering::Relaxed))
                .sum()
        };
        (total(|state| &state.passed), total(|state| &state.dropped))
    }
}

impl State {
    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Whether the next datagram passes.
    fn passes(&self) -> bool {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let passes = !losses.loses() && !self.is_cut();
        let count = if passes { &self.passed } else { &self.dropped };
        count.fetch_add(1, Ordering::Relaxed);
        passes
    }
}

/// The same free port of TCP and UDP.
fn listen() -> (TcpListener, UdpSocket) {
    for _ in 0..256 {
        let udp = socket();
        let port = udp.local_addr().expect("an address").port();
        if let Ok(tcp) = TcpListener::bind(("127.0.0.1", port)) {
            return (tcp, udp);
        }
    }
    panic!("found no port that is free on TCP and UDP");
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a socket")
}

fn datagrams(front: UdpSocket, server: u16, ways: [Arc<State>; 2]) {
    let front = Arc::new(front);
    std::thread::spawn(move || {
        let [there, back_way] = ways;
        let mut clients: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
        let mut buffer = [0; 65_536];
        while let Ok((bytes, client)) = front.recv_from(&mut buffer) {
            let back = clients.entry(client).or_insert_with(|| {
                let back = Arc::new(socket());
                back.connect(("127.0.0.1", server)).expect("an address");
                let (from, to, way) = (back.clone(), front.clone(), back_way.clone());
                std::thread::spawn(move || answers(&from, &to, client, &way));
                back
            });
            if there.passes() {
                // Nobody may listen there any more; then it is lost, which is what this is about.
                let _ = back.send(&buffer[..bytes]);
            }
        }
    });
}

/// Passes the server's datagrams on to one client.
fn answers(from: &UdpSocket, to: &UdpSocket, client: SocketAddr, way: &State) {
    let mut buffer = [0; 65_536];
    loop {
        // While the server is away, its port is closed; it may come back.
        match from.recv(&mut buffer) {
            Ok(bytes) if way.passes() => drop(to.send_to(&buffer[..bytes], client)),
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn connections(front: TcpListener, server: u16, ways: [Arc<State>; 2]) {
    std::thread::spawn(move || {
        for client in front.incoming().map_while(Result::ok) {
            let Ok(back) = TcpStream::connect(("127.0.0.1", server)) else {
                continue;
            };
            let pairs = [(&client, &back), (&back, &client)];
            for ((from, to), way) in pairs.into_iter().zip(&ways) {
                let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                let (from, to, way) = (copy(from), copy(to), Arc::clone(way));
                std::thread::spawn(move || stream(from, to, &way));
            }
        }
    });
}

/// Passes a stream on, one way.
fn stream(mut from: TcpStream, mut to: TcpStream, way: &State) {
    let mut buffer = [0; 65_536];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        while way.is_cut() {
            std::thread::sleep(Duration::from_millis(10));
        }
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    // What closes one side closes the other, unless the way there is cut.
    while way.is_cut() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
