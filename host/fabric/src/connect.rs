//! Which nodes are waited for while a session is opened.
//!
//! Those that can be reached are connected to before the session is used, so that its first question is asked of all of them; the others are
//! tried for beside everything else.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zenoh::config::EndPoint;

/// How long to look whether anybody listens. Long enough for a lost first segment to be sent again.
const LOOK: Duration = Duration::from_millis(1_500);

/// How long connecting to those that listen may take, in milliseconds.
const CONNECT_MS: u64 = 10_000;

/// zenoh's options for an endpoint where nobody listens yet.
const LATER: &str = "exit_on_failure=false;retry_period_init_ms=250;retry_period_max_ms=500";

/// Settings that connect a peer or a router to the endpoints at which somebody listens, and to the others in time.
pub(crate) async fn reachable_first(endpoints: &[String]) -> [(&'static str, Value); 3] {
    let mut looks = JoinSet::new();
    let parsed = endpoints
        .iter()
        .filter_map(|endpoint| endpoint.parse::<EndPoint>().ok());
    for (index, endpoint) in parsed.enumerate() {
        looks.spawn(async move {
            let connected = TcpStream::connect(endpoint.address().to_string());
            let here = matches!(tokio::time::timeout(LOOK, connected).await, Ok(Ok(_)));
            let separator = match (here, endpoint.config().is_empty()) {
                (true, _) => return (false, index, endpoint.to_string()),
                (false, true) => '#',
                (false, false) => ';',
            };
            (true, index, format!("{endpoint}{separator}{LATER}"))
        });
    }
    let mut endpoints = looks.join_all().await;
    endpoints.sort_unstable();
    let endpoints: Vec<_> = endpoints
        .into_iter()
        .map(|(.., endpoint)| endpoint)
        .collect();
    [
        ("connect/endpoints", json!(endpoints)),
        // What zenoh does not go on without, it connects to one after the other.
        (
            "connect/exit_on_failure",
            json!({ "peer": true, "router": true }),
        ),
        (
            "connect/timeout_ms",
            json!({ "peer": CONNECT_MS, "router": CONNECT_MS }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_listens_comes_first() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap().port();
        let absent = {
            let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let endpoints = [
            format!("tcp/127.0.0.2:{absent}?rel=1#iface=lo"),
            format!("tcp/127.0.0.2:{absent}?rel=1"),
            format!("tcp/127.0.0.1:{here}?rel=1"),
        ];
        let settings = reachable_first(&endpoints).await;
        assert_eq!(
            settings[0].1,
            json!([
                endpoints[2],
                format!("{};{LATER}", endpoints[0]),
                format!("{}#{LATER}", endpoints[1]),
            ])
        );
    }
}
