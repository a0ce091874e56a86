//! Requests and answers between nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::nodes::{PATIENCE, config, free_port, id, member, pair, sees, until};
use halo_fabric::{Call, CallError, HandlerFuture};
use serde_json::{Value, json};

/// Answers `echo` and `who`, refuses `no`, and never comes back from `wait`.
fn handler(call: Call) -> HandlerFuture {
    Box::pin(async move {
        match call.operation.as_str() {
            "echo" => Ok(call.body),
            "who" => Ok(json!(call.from)),
            "no" => Err("because I do not want to".to_owned()),
            "wait" => std::future::pending().await,
            other => Err(format!("no operation `{other}`")),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered() {
    let (a, b) = pair(|_| ()).await;
    let _service = b.serve(handler).await.unwrap();
    let request = json!({"text": "hello", "numbers": [1, 2.5, null]});
    let answer: Value = a.call(b.node(), "echo", &request, PATIENCE).await.unwrap();
    assert_eq!(answer, request);
    let who: String = a.call(b.node(), "who", &(), PATIENCE).await.unwrap();
    assert_eq!(who, "a");

    // Far above one batch of zenoh's, so in many pieces.
    let large = "x".repeat(3 << 20);
    let answer: String = a.call(b.node(), "echo", &large, PATIENCE).await.unwrap();
    assert_eq!(answer, large);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_to_the_node_they_name() {
    let ports = [free_port(), free_port(), free_port()];
    let nodes = [
        member(config("a", ports[0], &[])).await,
        member(config("b", ports[1], &[ports[0]])).await,
        member(config("c", ports[2], &[ports[0], ports[1]])).await,
    ];
    let mut services = Vec::new();
    for node in &nodes {
        sees(node, &["a", "b", "c"]).await;
        let me = node.node().to_string();
        let service = node.serve(move |call: Call| -> HandlerFuture {
            let me = me.clone();
            Box::pin(async move { Ok(json!([me, call.from])) })
        });
        services.push(service.await.unwrap());
    }
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.node() != from.node()) {
            let answer: (String, String) = from.call(to.node(), "x", &(), PATIENCE).await.unwrap();
            assert_eq!(answer, (to.node().to_string(), from.node().to_string()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once() {
    let (a, b) = pair(|_| ()).await;
    let _service = b.serve(handler).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|i| {
            let (a, to) = (a.clone(), b.node().clone());
            tokio::spawn(async move { a.call::<u32, u32>(&to, "echo", &i, PATIENCE).await })
        })
        .collect();
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), i as u32);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_a_service_takes_are_refused() {
    let (a, b) = pair(|_| ()).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let service = b.serve({
        let begun = Arc::clone(&begun);
        move |call| {
            begun.fetch_add(1, Ordering::Relaxed);
            handler(call)
        }
    });
    let _service = service.await.unwrap();
    let waiting: Vec<_> = (0..64)
        .map(|_| {
            let (a, to) = (a.clone(), b.node().clone());
            let timeout = Duration::from_secs(10);
            tokio::spawn(async move { a.call::<(), ()>(&to, "wait", &(), timeout).await })
        })
        .collect();
    until("all calls have begun", || {
        begun.load(Ordering::Relaxed) == 64
    })
    .await;
    let refused = a
        .call::<(), ()>(b.node(), "echo", &(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(refused, CallError::Refused { .. }), "{refused}");
    for call in waiting {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::NoAnswer { .. }), "{error}");
    }
    // What nobody waits for any more takes no slot.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while a
        .call::<(), ()>(b.node(), "echo", &(), PATIENCE)
        .await
        .is_err()
    {
        assert!(tokio::time::Instant::now() < deadline);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_why() {
    let (a, b) = pair(|_| ()).await;
    let _service = b.serve(handler).await.unwrap();
    let error = a
        .call::<_, Value>(b.node(), "no", &(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Refused { .. }));
    assert_eq!(
        error.to_string(),
        "node `b` refused `no`: because I do not want to"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_said_so() {
    let (a, b) = pair(|_| ()).await;
    let short = Duration::from_millis(300);
    let ask = async |to: &str, operation: &str| {
        a.call::<_, Value>(&id(to), operation, &(), short)
            .await
            .unwrap_err()
    };
    let nobody = ask("nobody", "echo").await;
    assert!(matches!(nobody, CallError::NoAnswer { .. }), "{nobody}");
    let no_service = ask("b", "echo").await;
    assert!(matches!(no_service, CallError::NoAnswer { .. }));

    let service = b.serve(handler).await.unwrap();
    let slow = ask("b", "wait").await;
    assert!(matches!(slow, CallError::NoAnswer { .. }), "{slow}");
    assert_eq!(
        slow.to_string(),
        "node `b` did not answer `wait` within 300ms; is it running and connected to the cluster?"
    );
    drop(service);
    let stopped = ask("b", "echo").await;
    // Whether it is known already that nobody answers is chance.
    assert!(matches!(
        stopped,
        CallError::NoAnswer { .. } | CallError::Gone { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_answers_no_more() {
    let (a, b) = pair(|_| ()).await;
    let _service = b.serve(handler).await.unwrap();
    let asked = tokio::spawn({
        let (a, b) = (a.clone(), b.node().clone());
        async move { a.call::<_, Value>(&b, "wait", &(), PATIENCE).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    b.close().await;
    let gone = asked.await.unwrap().unwrap_err();
    assert!(matches!(gone, CallError::Gone { .. }), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_make_no_sense() {
    let (a, b) = pair(|_| ()).await;
    let _service = b.serve(handler).await.unwrap();
    let wrong_type = a
        .call::<_, u32>(b.node(), "echo", &"text", PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(wrong_type, CallError::Malformed { .. }));
    for operation in ["", "a/b", "*", "A"] {
        let error = a
            .call::<_, Value>(b.node(), operation, &(), PATIENCE)
            .await
            .unwrap_err();
        assert!(matches!(error, CallError::Malformed { .. }), "{operation}");
    }
    let too_large = "x".repeat((16 << 20) + 1);
    let error = a
        .call::<_, Value>(b.node(), "echo", &too_large, PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error}");
}
