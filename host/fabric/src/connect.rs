//! The order in which links are made.
//!
//! zenoh makes the links to a node each by itself, and tells the other side of everything that is declared here over whichever
//! comes first. If that is the unreliable one, what gets lost is never told again. So nodes that can be reached are connected to
//! before a session is used, over the reliable link first; the others are tried for less often over the unreliable one.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zenoh::config::EndPoint;

/// How long to look whether anybody listens. Long enough for a lost first segment to be sent again.
const LOOK: Duration = Duration::from_millis(1_500);

/// How long the links to nodes that can be reached may take, in milliseconds. At 20 % loss each way, a handshake over UDP
/// fails six times in ten; this leaves room for several.
const CONNECT_MS: u64 = 10_000;

/// zenoh's options for an endpoint where nobody listens yet. It is tried for beside everything else, and seldom enough over
/// an unreliable link that the reliable one is nearly always first when somebody comes.
const LATER_RELIABLE: &str =
    "exit_on_failure=false;retry_period_init_ms=250;retry_period_max_ms=500";
const LATER_UNRELIABLE: &str =
    "exit_on_failure=false;retry_period_init_ms=2000;retry_period_max_ms=2000";

/// Settings that connect a peer or a router to the nodes that can be reached now, in order, and to the others in time.
///
/// Each of `groups` is the endpoints of one node, or one endpoint by itself.
pub(crate) async fn in_order(groups: &[Vec<String>]) -> [(&'static str, Value); 3] {
    let groups: Vec<Vec<EndPoint>> = groups
        .iter()
        .map(|group| group.iter().filter_map(|e| e.parse().ok()).collect())
        .collect();
    let hosts = reachable(groups.iter().flatten()).await;
    let (mut now, later): (Vec<_>, Vec<_>) = groups.iter().partition(|group| {
        let mut reliable = group.iter().filter(|e| is_reliable(e)).peekable();
        match reliable.peek() {
            Some(_) => reliable.any(|e| hosts.contains(&e.address().to_string())),
            // An unreliable endpoint by itself goes with the reliable ones of its host.
            None => group.iter().any(|e| {
                let host =
                    |address: &str| address.rsplit_once(':').map(|(host, _)| host.to_owned());
                hosts.iter().any(|h| host(h) == host(e.address().as_str()))
            }),
        }
    });
    now.sort_by_key(|group| !group.iter().any(is_reliable));
    let later = later.into_iter().flatten().map(|endpoint| {
        let options = if is_reliable(endpoint) {
            LATER_RELIABLE
        } else {
            LATER_UNRELIABLE
        };
        let separator = if endpoint.config().is_empty() {
            '#'
        } else {
            ';'
        };
        format!("{endpoint}{separator}{options}")
    });
    let endpoints: Vec<String> = now
        .into_iter()
        .flatten()
        .map(ToString::to_string)
        .chain(later)
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

fn is_reliable(endpoint: &EndPoint) -> bool {
    endpoint.protocol().as_str() == "tcp"
}

/// The addresses of reliable endpoints at which somebody listens.
async fn reachable(endpoints: impl Iterator<Item = &EndPoint>) -> Vec<String> {
    let mut looks = JoinSet::new();
    for endpoint in endpoints.filter(|e| is_reliable(e)) {
        let address = endpoint.address().to_string();
        looks.spawn(async move {
            let stream = tokio::time::timeout(LOOK, TcpStream::connect(&address)).await;
            matches!(stream, Ok(Ok(_))).then_some(address)
        });
    }
    looks.join_all().await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_listens_comes_first_and_reliable_links_before_others() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap().port();
        let absent = {
            let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let groups = [
            vec!["udp/127.0.0.1:9?rel=0".to_owned()],
            vec![
                format!("tcp/127.0.0.2:{absent}?rel=1"),
                format!("udp/127.0.0.2:{absent}?rel=0#iface=lo"),
            ],
            vec![
                format!("tcp/127.0.0.1:{here}?rel=1"),
                format!("udp/127.0.0.1:{here}?rel=0"),
            ],
        ];
        let settings = in_order(&groups).await;
        assert_eq!(
            settings[0].1,
            json!([
                format!("tcp/127.0.0.1:{here}?rel=1"),
                format!("udp/127.0.0.1:{here}?rel=0"),
                "udp/127.0.0.1:9?rel=0",
                format!("tcp/127.0.0.2:{absent}?rel=1#{LATER_RELIABLE}"),
                format!("udp/127.0.0.2:{absent}?rel=0#iface=lo;{LATER_UNRELIABLE}"),
            ])
        );
    }
}
