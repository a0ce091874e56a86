//! Packets that nobody asked for: a flood of them costs neither memory nor a token.

use halo_fabric::{Encoding, Header, Kind, TensorShape};
use zenoh::Wait as _;
use zenoh::qos::CongestionControl;

use crate::cluster::{Cluster, LEADER, Setup, evenly};
use crate::model::{Model, right_tokens};

const TOKENS: usize = 128;

/// Packets of each kind: 30 MB or so.
const PACKETS: u32 = 25_000;

/// More memory than a node has any reason to take meanwhile: its queue of packets is full at 11 MB.
const LIMIT: u64 = 64 << 20;

/// A peer of zenoh's that is no node, connected to some.
fn stranger(addresses: &[String]) -> zenoh::Session {
    let endpoints: Vec<String> = addresses.iter().map(|a| format!("udp/{a}")).collect();
    let mut config = zenoh::Config::default();
    for (key, value) in [
        ("mode", "\"peer\"".to_owned()),
        ("listen/endpoints", "[]".to_owned()),
        ("scouting/multicast/enabled", "false".to_owned()),
        ("connect/endpoints", format!("{endpoints:?}")),
    ] {
        config.insert_json5(key, &value).expect("a setting");
    }
    zenoh::open(config).wait().expect("a session")
}

/// A packet that would be good if anybody waited for it.
fn packet(kind: Kind, step: u32) -> Vec<u8> {
    let width = Model::Exact.package().shape().width;
    let shape = TensorShape::new(1, width, Encoding::F32).expect("a shape");
    let header = Header {
        step,
        epoch: step,
        generation: u64::from(step),
        ..Header::of_tensor(kind, &shape)
    };
    let body = vec![0; shape.chunk_bytes(0)];
    header.write(step, &body).expect("a packet")
}

#[test]
fn a_flood_costs_neither_memory_nor_a_token() {
    let cluster = Cluster::start(Setup::default(), 1);
    let mut leader = cluster.lead(TOKENS, &evenly("strict", "f32"));
    leader.read_to(16);
    let worker = &cluster.workers[0];
    let before = [worker.process.memory(), leader.memory()];

    let session = stranger(&cluster.nodes_addresses());
    let put = |to: &str, from: &str, packet: Vec<u8>| {
        let key = format!("halo/{}/data/{to}/{from}", cluster.name());
        let put = session.put(key, packet);
        let put = put.congestion_control(CongestionControl::Block);
        put.wait().expect("a packet sent");
    };
    leader.meanwhile(TOKENS / 2, || {
        let stale = packet(Kind::Activation, 77);
        for number in 0..PACKETS {
            put(&worker.name, "anybody", vec![0xff; 1300]);
            put(&worker.name, &format!("node-{number}"), stale.clone());
            put(
                &worker.name,
                LEADER,
                packet(Kind::Activation, number | 1 << 31),
            );
            put(LEADER, &worker.name, packet(Kind::Partial, number));
        }
    });

    let after = [worker.process.memory(), leader.memory()];
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + LIMIT, "from {before} to {after} bytes");
    }
    let generation = leader.finish();
    assert_eq!(generation.report.tokens, right_tokens(TOKENS));
    assert!(generation.report.counts.packets_useless > 0);
}
