//! Joining, leaving, and what stands in the way of either.

use std::net::UdpSocket;

use crate::nodes::{config, free_port, id, member, raw_peer, sees};
use halo_fabric::{Fabric, FabricError, Mode};
use zenoh::Wait as _;

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let port = free_port();
    let a = member(config("a", port, &[])).await;
    sees(&a, &["a"]).await;
    assert_eq!(a.endpoints(), [format!("127.0.0.1:{port}")]);

    let observer = Fabric::open(config("observer", free_port(), &[port]))
        .await
        .unwrap();
    sees(&observer, &["a"]).await;

    let b = member(config("b", free_port(), &[port])).await;
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;

    b.close().await;
    sees(&a, &["a"]).await;

    // A name is free again when its node has left, and a drop leaves as a close does.
    let b = member(config("b", free_port(), &[port])).await;
    sees(&a, &["a", "b"]).await;
    drop(b);
    sees(&a, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_may_start_before_what_they_connect_to() {
    let port = free_port();
    let b = member(config("b", free_port(), &[port])).await;
    sees(&b, &["b"]).await;
    let a = member(config("a", port, &[])).await;
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_a_node_behind_it_is_no_member() {
    let port = free_port();
    let a = member(config("a", port, &[])).await;
    let b = member(config("b", free_port(), &[port])).await;
    let ghost = raw_peer("tcp", port).await;
    let token = ghost.liveliness().declare_token("halo/halo/node/ghost/1-2");
    let _token = token.await.unwrap();
    sees(&a, &["a", "b", "ghost"]).await;
    sees(&a, &["a", "b"]).await;

    // It counts again as soon as it answers.
    let answer = ghost.declare_queryable("halo/halo/alive/ghost");
    let answer = answer.callback(|query| query.reply(query.key_expr(), "").wait().unwrap());
    let answer = answer.await.unwrap();
    sees(&a, &["a", "b", "ghost"]).await;
    answer.undeclare().await.unwrap();
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_reached_over_udp_is_a_member() {
    let port = free_port();
    let mut settings = config("a", port, &[]);
    settings.listen = vec![format!("tcp/127.0.0.1:{port}?rel=1")];
    let a = member(settings).await;
    let b = member(config("b", free_port(), &[port])).await;
    sees(&a, &["a", "b"]).await;
    sees(&b, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_do_not_see_one_another() {
    let port = free_port();
    let a = member(config("a", port, &[])).await;
    let mut other = config("a", free_port(), &[port]);
    other.cluster = "another".to_owned();
    let other = member(other).await;
    let b = member(config("b", free_port(), &[port])).await;
    sees(&b, &["a", "b"]).await;
    sees(&a, &["a", "b"]).await;
    sees(&other, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_given_once() {
    let port = free_port();
    let a = member(config("a", port, &[])).await;
    a.announce().await.unwrap();
    let error = Fabric::open(config("a", free_port(), &[port]))
        .await
        .unwrap_err();
    assert!(matches!(error, FabricError::NameTaken { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "the cluster `halo` already has a live node named `a`; give this one another name, or stop the other"
    );
    sees(&a, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_open_at_once_one_becomes_a_member() {
    let ports = [free_port(), free_port()];
    let one = Fabric::open(config("a", ports[0], &[])).await.unwrap();
    let two = Fabric::open(config("a", ports[1], &[ports[0]]))
        .await
        .unwrap();
    let (first, second) = tokio::join!(one.announce(), two.announce());
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    sees(&one, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let port = free_port();
    let _a = member(config("a", port, &[])).await;
    let error = Fabric::open(config("b", port, &[])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on tcp/127.0.0.1:{port}: the address is in use; stop the program that uses it \
             (`ss -lntup` shows which), or listen on another port"
        )
    );

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    let error = Fabric::open(config("b", port, &[])).await.unwrap_err();
    assert!(
        matches!(&error, FabricError::PortInUse { endpoint } if *endpoint == format!("udp/127.0.0.1:{port}")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work_are_refused() {
    let port = free_port();
    let open = async |change: &dyn Fn(&mut halo_fabric::FabricConfig)| {
        let mut config = config("a", port, &[]);
        change(&mut config);
        Fabric::open(config).await.unwrap_err()
    };
    let error = open(&|c| c.listen = vec!["nonsense".to_owned()]).await;
    assert!(matches!(error, FabricError::BadEndpoint { .. }), "{error}");
    let error = open(&|c| c.connect = vec!["127.0.0.1".to_owned()]).await;
    assert!(matches!(error, FabricError::BadEndpoint { .. }), "{error}");
    let error = open(&|c| c.cluster = "a/*".to_owned()).await;
    assert!(matches!(error, FabricError::InvalidName(_)), "{error}");
    // An address of the range for documentation, which no machine has.
    let error = open(&|c| c.listen = vec!["192.0.2.1:7447".to_owned()]).await;
    assert!(
        matches!(error, FabricError::NoSuchAddress { .. }),
        "{error}"
    );
    let error = open(&|c| c.mode = Mode::Client).await;
    assert!(matches!(error, FabricError::NowhereToConnect), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_peer_finds_a_port_by_itself() {
    let mut settings = config("a", 0, &[]);
    settings.listen.clear();
    let a = member(settings).await;
    let endpoints = a.endpoints();
    let port = endpoints
        .first()
        .and_then(|e| e.rsplit_once(':')?.1.parse::<u16>().ok())
        .expect("an endpoint of an interface");
    let b = member(config("b", free_port(), &[port])).await;
    sees(&b, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_fabric_says_so() {
    let a = member(config("a", free_port(), &[])).await;
    a.close().await;
    assert!(a.link(&id("b")).is_err());
    assert!(a.receive(|_, _| ()).is_err());
    assert!(
        a.call::<_, ()>(&id("b"), "x", &(), crate::nodes::PATIENCE)
            .await
            .is_err()
    );
}
