//! Nodes on this machine for the tests.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use halo_fabric::{
    Block, Encoding, Fabric, FabricConfig, Header, Kind, NodeId, Place, TensorShape,
};

/// Longer than anything takes that works at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// A port that is free on TCP and UDP.
pub(crate) fn free_port() -> u16 {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Settings of a node that listens on loopback and connects to ports there.
pub(crate) fn config(name: &str, listen: u16, connect: &[u16]) -> FabricConfig {
    let mut config = FabricConfig::new(id(name));
    config.listen = vec![format!("127.0.0.1:{listen}")];
    config.connect = connect.iter().map(|p| format!("127.0.0.1:{p}")).collect();
    config.scouting = false;
    config
}

/// Opens a node and makes it a member.
pub(crate) async fn member(config: FabricConfig) -> Fabric {
    let fabric = Fabric::open(config).await.unwrap();
    fabric.announce().await.unwrap();
    fabric
}

/// A peer of zenoh's that is no node, connected to a port over TCP or UDP.
pub(crate) async fn raw_peer(protocol: &str, port: u16) -> zenoh::Session {
    let mut config = zenoh::Config::default();
    for (key, value) in [
        ("mode", "\"peer\"".to_owned()),
        ("listen/endpoints", "[]".to_owned()),
        ("scouting/multicast/enabled", "false".to_owned()),
        (
            "connect/endpoints",
            format!("[\"{protocol}/127.0.0.1:{port}\"]"),
        ),
    ] {
        config.insert_json5(key, &value).unwrap();
    }
    zenoh::open(config).await.unwrap()
}

/// Two members that see each other.
pub(crate) async fn pair(mut configure: impl FnMut(&mut FabricConfig)) -> (Fabric, Fabric) {
    let port = free_port();
    let mut configs = [config("a", port, &[]), config("b", free_port(), &[port])];
    configs.iter_mut().for_each(&mut configure);
    let [a, b] = configs;
    let (a, b) = (member(a).await, member(b).await);
    for node in [&a, &b] {
        sees(node, &["a", "b"]).await;
    }
    (a, b)
}

/// Waits until a node sees just these members.
pub(crate) async fn sees(fabric: &Fabric, names: &[&str]) {
    let names: BTreeSet<NodeId> = names.iter().map(|name| id(name)).collect();
    let mut members = fabric.members();
    let seen = tokio::time::timeout(PATIENCE, members.wait_for(|m| *m == names)).await;
    assert!(
        matches!(seen, Ok(Ok(_))),
        "{} sees {:?} rather than {names:?}",
        fabric.node(),
        *fabric.members().borrow()
    );
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A tensor packet as large as there is: header and body.
pub(crate) fn large_packet() -> (Header, Vec<u8>) {
    let shape = TensorShape::new(1, 320, Encoding::F32).unwrap();
    assert_eq!(
        (shape.chunks(), shape.chunk_bytes(0)),
        (1, halo_fabric::MAX_BODY_BYTES)
    );
    let mut body = Vec::new();
    Place::default().write(&mut body);
    shape.encode_chunk(0, &[1.5; 320], &mut body);
    let header = Header {
        block: Block::Attention,
        ..Header::of_tensor(Kind::Activation, &shape)
    };
    (header, body)
}
