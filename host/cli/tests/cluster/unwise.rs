//! A placement that turns out to have been for the worse.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cluster::{Cluster, Setup};
use crate::faulty::component;
use crate::slow::hold_up;

const TOKENS: usize = 200;

/// What the leader logs when it has compared a placement with the one before, and finds it slower.
const SLOWER: [&str; 2] = ["tokens with the new placement", "slower=true"];

#[test]
fn it_is_taken_back() {
    let setup = Setup {
        memory: 0.4,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(setup, 2);
    cluster.join_with("[testing]\nslowdown = 300.0\n");
    let mut leader = cluster.lead(
        TOKENS,
        &["--sync", "relaxed", "--scheduler", "scheduler-even"],
    );
    leader.read_to(2);
    // It is tried once. Then it gives the slow worker nothing, and as much as it can as soon as it is asked for another placement.
    let file = component("scheduler-faulty");
    let settings = ["fault=unwise", "in=place", "after=2"];
    leader.meanwhile(20, || cluster.activate(&file, &settings));
    let shares = || -> Vec<f64> {
        let devices = cluster.plan().devices;
        devices.iter().map(|device| device.share).collect()
    };
    leader.log().wait_for(&["in force", "epoch=2"]);
    let wise = leader.meanwhile(40, shares);
    assert!(wise[1] > 0.3 && wise[3] == 0.0, "{wise:?}");

    let (over, log) = (AtomicBool::new(false), leader.log().clone());
    thread::scope(|scope| {
        // That a worker is held up is the occasion.
        scope.spawn(|| hold_up(&cluster, 0, &over));
        for tokens in 41..TOKENS - 40 {
            leader.read_to(tokens);
            if log.count(&SLOWER) > 0 {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(log.count(&SLOWER), 1, "no placement was for the worse");
    let back = leader.meanwhile(TOKENS - 20, || {
        log.wait_for_more(2, &["new placement in force"]);
        shares()
    });
    assert_eq!(back, wise);
    assert_eq!(leader.finish().tokens.len(), TOKENS);
}
