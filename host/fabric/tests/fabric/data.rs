//! Packets between nodes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::nodes::{
    PATIENCE, config, free_port, id, large_packet, member, pair, raw_peer, sees, until,
};
use halo_fabric::{
    Accepted, Assembly, Counters, Encoding, Fabric, FaultInjector, Faults, Header, Kind, Loss,
    TensorShape, Traffic,
};

/// All packets and bytes of some kinds.
fn total(traffic: &[Traffic]) -> (u64, u64) {
    traffic.iter().fold((0, 0), |(packets, bytes), t| {
        (packets + t.packets, bytes + t.bytes)
    })
}

/// Everything that has arrived, whatever became of it.
fn arrived(counters: &Counters) -> (u64, u64) {
    let (packets, bytes) = total(&counters.received);
    (
        packets + counters.dropped.packets + counters.malformed.packets,
        bytes + counters.dropped.bytes + counters.malformed.bytes,
    )
}

/// Packets that a busy machine may lose.
const SPARE: u64 = 10;

/// Sends packets a few at a time, so that no queue on the way overflows; on a machine that is busy `spare` of them may be lost
/// all the same.
async fn send_paced(from: &Fabric, to: &Fabric, packets: u32, spare: u64) {
    let link = from.link(to.node()).unwrap();
    let (header, body) = large_packet();
    for step in 0..packets {
        link.send(Header { step, ..header }, &body);
        if step % 8 == 7 {
            until("a burst arrives", || {
                arrived(&to.counters()).0 + 4 + spare > total(&from.counters().sent).0
            })
            .await;
        }
    }
    // Equal at some moment and nothing lost: a lost packet would be missing for good.
    let ended = Instant::now();
    until("all packets are accounted for", || {
        let sent = total(&from.counters().sent);
        let arrived = arrived(&to.counters());
        let late = ended.elapsed() > Duration::from_secs(2);
        (sent == arrived && sent == total(&from.counters().sent))
            || (late && arrived.0 + spare >= sent.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_packets_arrive() {
    let (a, b) = pair(|_| ()).await;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let receiver = b
        .receive({
            let steps = Arc::clone(&steps);
            let (expected, body) = large_packet();
            move |from, packet| {
                assert_eq!(*from, id("a"));
                let step = packet.header.step;
                assert_eq!(packet.header, Header { step, ..expected });
                assert_eq!(packet.body, body);
                steps.lock().unwrap().push(step);
            }
        })
        .unwrap();
    send_paced(&a, &b, 10_000, SPARE).await;
    let (sent, received) = (a.counters(), b.counters());
    assert_eq!(sent.sent_of(Kind::Activation).packets, 10_000);
    let Traffic { packets, bytes } = received.received_of(Kind::Activation);
    assert!((10_000 - SPARE..=10_000).contains(&packets), "{packets}");
    assert_eq!(bytes, packets * halo_fabric::MAX_PACKET_BYTES as u64);
    assert_eq!(received.dropped, Traffic::default());
    assert_eq!(received.malformed, Traffic::default());
    assert_eq!(sent.send_failures, 0);
    until("the last callback returns", || {
        steps.lock().unwrap().len() as u64 == packets
    })
    .await;
    assert!(
        steps.lock().unwrap().is_sorted_by(|a, b| a < b),
        "in order, each once"
    );
    drop(receiver);
    send_paced(&a, &b, 10, SPARE).await;
    assert_eq!(steps.lock().unwrap().len() as u64, packets);
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_faults_lose_what_their_seed_says() {
    for loss in [
        Loss::Random { rate: 0.1 },
        Loss::Bursty {
            rate: 0.2,
            burst: 4.0,
        },
    ] {
        let faults = Faults { loss, seed: 42 };
        let (a, b) = pair(|config| {
            if config.node == id("b") {
                config.faults = Some(faults);
            }
        })
        .await;
        let called = Arc::new(AtomicU64::new(0));
        let _receiver = b
            .receive({
                let called = Arc::clone(&called);
                move |_, _| {
                    called.fetch_add(1, Ordering::Relaxed);
                }
            })
            .unwrap();
        send_paced(&a, &b, 10_000, SPARE).await;

        let counters = b.counters();
        let received = counters.received_of(Kind::Activation).packets;
        assert!((7_000..9_500).contains(&received), "{received}");
        until("the last callback returns", || {
            called.load(Ordering::Relaxed) == received
        })
        .await;
        // Heartbeats are lost as tensors are, so the model is run over everything that has arrived.
        let mut model = FaultInjector::new(&faults).unwrap();
        let arrived = arrived(&counters).0;
        let lost = (0..arrived).filter(|_| model.loses()).count() as u64;
        assert_eq!(counters.dropped.packets, lost);
        assert_eq!(a.counters().dropped, Traffic::default());

        // The other side learns of it by pongs; on the way back nothing is lost.
        let to_b = a.link(&id("b")).unwrap();
        until("the loss is known", || {
            to_b.estimate().loss_to.is_some_and(|loss| loss > 0.02)
        })
        .await;
        assert_eq!(to_b.estimate().loss_from, Some(0.0));
        let to_a = b.link(&id("a")).unwrap();
        assert!(to_a.estimate().loss_from.unwrap() > 0.02);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_chunk_is_asked_for_and_sent_again() {
    let (a, b) = pair(|_| ()).await;
    let shape = TensorShape::new(3, 2048, Encoding::Q8).unwrap();
    let values: Vec<f32> = (0..shape.values())
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let (sender, packets) = std::sync::mpsc::channel();
    let _at_b = b
        .receive(move |_, packet| sender.send((packet.header, packet.body.to_vec())).unwrap())
        .unwrap();

    let to_b = a.link(b.node()).unwrap();
    let send = {
        let to_b = Arc::clone(&to_b);
        let values = values.clone();
        move |chunk: u16| {
            let mut body = Vec::new();
            shape.encode_chunk(chunk, &values, &mut body);
            let header = Header::of_tensor(Kind::Activation, &shape);
            to_b.send(Header { chunk, ..header }, &body);
        }
    };
    let _at_a = a
        .receive({
            let send = send.clone();
            move |_, packet| {
                assert_eq!(packet.header.kind, Kind::Ask);
                packet.asked().for_each(&send);
            }
        })
        .unwrap();
    for chunk in [0, 2, 3, 5] {
        send(chunk);
    }
    let mut assembly = Assembly::new(shape);
    let take = |assembly: &mut Assembly, count: usize| {
        for _ in 0..count {
            let (header, body) = packets.recv_timeout(PATIENCE).unwrap();
            assert_eq!(assembly.accept(&header, &body), Accepted::New);
        }
    };
    take(&mut assembly, 4);
    assert_eq!(assembly.missing().collect::<Vec<_>>(), [1, 4]);
    let last = Header {
        chunk: 5,
        ..Header::of_tensor(Kind::Activation, &shape)
    };
    assert!(assembly.is_last(&last), "nothing more is under way");
    let (chunk, bits) = assembly.ask().unwrap();
    let header = Header::of_tensor(Kind::Ask, &shape);
    b.link(a.node())
        .unwrap()
        .send(Header { chunk, ..header }, &bits);
    take(&mut assembly, 2);
    assert!(assembly.complete());
    for (got, sent) in assembly.values().iter().zip(&values) {
        assert!((got - sent).abs() < 1.0 / 127.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_hear_only_what_is_for_them() {
    let ports = [free_port(), free_port(), free_port()];
    let nodes = [
        member(config("a", ports[0], &[])).await,
        member(config("b", ports[1], &[ports[0]])).await,
        member(config("c", ports[2], &[ports[0], ports[1]])).await,
    ];
    for node in &nodes {
        sees(node, &["a", "b", "c"]).await;
    }
    let heard = Arc::new(Mutex::new(Vec::new()));
    let _receivers: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (heard, me) = (Arc::clone(&heard), node.node().clone());
            node.receive(move |from, packet| {
                let (from, layer) = (from.to_string(), packet.header.layer);
                heard.lock().unwrap().push((from, me.to_string(), layer));
            })
            .unwrap()
        })
        .collect();
    let (header, body) = large_packet();
    let mut expected = Vec::new();
    for (i, from) in nodes.iter().enumerate() {
        for (j, to) in nodes.iter().enumerate().filter(|(j, _)| *j != i) {
            let layer = (10 * i + j) as u16;
            let link = from.link(to.node()).unwrap();
            assert!(Arc::ptr_eq(&link, &from.link(to.node()).unwrap()));
            link.send(Header { layer, ..header }, &body);
            expected.push((from.node().to_string(), to.node().to_string(), layer));
        }
    }
    until("six packets arrive", || heard.lock().unwrap().len() >= 6).await;
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    assert_eq!(heard, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_measured() {
    let (a, b) = pair(|_| ()).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let link = from.link(to.node()).unwrap();
        until("a pong and its account come back", || {
            link.estimate().loss_to.is_some()
        })
        .await;
        let estimate = link.estimate();
        assert!(estimate.round_trip_us.unwrap() > 0.0);
        assert!(estimate.spread_us.is_some());
        assert_eq!(
            (estimate.loss_to, estimate.loss_from),
            (Some(0.0), Some(0.0))
        );
        assert!(estimate.last_heard.is_some());
    }
    let nobody = a.link(&id("nobody")).unwrap().estimate();
    assert_eq!(nobody, halo_fabric::Estimate::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_packets_are_counted() {
    let port = free_port();
    let node = member(config("a", port, &[])).await;
    let called = Arc::new(AtomicU64::new(0));
    let _receiver = node
        .receive({
            let called = Arc::clone(&called);
            move |_, _| {
                called.fetch_add(1, Ordering::Relaxed);
            }
        })
        .unwrap();

    let stranger = raw_peer("udp", port).await;
    let (header, body) = large_packet();
    let good = header.write(1, &body).unwrap();
    let mut wrong_version = good.clone();
    wrong_version[2] = 9;
    let bad = [
        ("x", Vec::new()),
        ("x", b"hello".to_vec()),
        ("x", vec![0xff; 5000]),
        ("x", wrong_version),
        ("NotAName", good.clone()),
    ];
    let bytes: usize = bad.iter().map(|(_, b)| b.len()).sum();
    for (from, bytes) in bad.clone() {
        stranger
            .put(format!("halo/halo/data/a/{from}"), bytes)
            .await
            .unwrap();
    }
    stranger.put("halo/halo/data/a/x", good).await.unwrap();
    until("the good packet arrives", || {
        called.load(Ordering::Relaxed) == 1
    })
    .await;
    let malformed = node.counters().malformed;
    assert_eq!(
        (malformed.packets, malformed.bytes),
        (bad.len() as u64, bytes as u64)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_do_not_fit_are_not_sent() {
    let (a, b) = pair(|_| ()).await;
    let (header, body) = large_packet();
    a.link(b.node()).unwrap().send(header, &body[1..]);
    assert_eq!(a.counters().send_failures, 1);
    assert_eq!(a.counters().sent_of(Kind::Activation).packets, 0);
}
