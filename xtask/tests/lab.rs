//! The lab does to packets what it is told, and HALO generates text in it. Needs root, iproute2 and nftables, and says so where
//! they are not.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

const PORT: u16 = 9000;

/// A lab that is taken down at the end, however the test ends.
struct Lab(String);

impl Drop for Lab {
    fn drop(&mut self) {
        self.xtask("down").output().unwrap();
    }
}

impl Lab {
    /// `None`, and words on standard error, where there can be none.
    fn up(name: &str) -> Option<Self> {
        let lab = Self(format!("{name}{}", std::process::id()));
        let output = lab.xtask("up").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("the lab needs") {
            // Not by a macro, whose words are shown of tests that fail only.
            let words = format!("SKIPPED {name}: {}\n", said.trim());
            std::io::stderr().write_all(words.as_bytes()).unwrap();
            return None;
        }
        assert!(output.status.success(), "{said}");
        Some(lab)
    }

    fn xtask(&self, command: &str) -> Command {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        xtask
            .args(["lab", "--lab", &self.0])
            .args(command.split(' '));
        xtask.stdin(Stdio::null());
        xtask
    }

    fn told(&self, command: &str) -> String {
        let output = self.xtask(command).output().unwrap();
        succeeded(command, &output);
        String::from_utf8(output.stdout).unwrap()
    }

    fn namespace(&self, host: u8) -> PathBuf {
        Path::new("/run/netns").join(format!("halo-{}-{host}", self.0))
    }

    /// A socket on a host.
    fn socket(&self, host: u8) -> UdpSocket {
        let namespace = File::open(self.namespace(host)).unwrap();
        // A socket belongs to the namespace that its thread was in, wherever it is used.
        let open = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            UdpSocket::bind((format!("10.77.0.{host}"), PORT)).unwrap()
        };
        thread::spawn(open).join().unwrap()
    }

    /// Sends packets from the first host to the second, which lose nothing in a socket's buffer, and says of each whether it came.
    fn send(&self, packets: usize) -> Vec<bool> {
        let (from, to) = (self.socket(1), self.socket(2));
        from.connect(("10.77.0.2", PORT)).unwrap();
        to.set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut came = Vec::new();
        while came.len() < packets {
            for _ in 0..64 {
                came.push(false);
                from.send(&came.len().to_le_bytes()).unwrap();
            }
            // Until the last that was sent comes, others may be under way.
            let mut number = [0; 8];
            while !came[came.len() - 1] {
                match to.recv(&mut number) {
                    Ok(_) => came[usize::from_le_bytes(number) - 1] = true,
                    Err(_) => {
                        came.push(false);
                        from.send(&came.len().to_le_bytes()).unwrap();
                    }
                }
            }
        }
        came
    }
}

fn succeeded(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn share(came: &[bool]) -> f64 {
    came.iter().filter(|&&came| !came).count() as f64 / came.len() as f64
}

/// The bounds are six standard deviations.
#[test]
fn as_many_packets_are_lost_as_it_is_told() {
    let Some(lab) = Lab::up("loss") else { return };
    assert_eq!(share(&lab.send(2_000)), 0.0);

    lab.told("loss 0.3 --host 2");
    let came = lab.send(20_000);
    assert!((share(&came) - 0.3).abs() < 0.02, "{}", share(&came));
    let lost = came.iter().filter(|&&came| !came).count();
    let status = lab.told("status");
    let told = status
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .rev()
        .nth(2)
        .unwrap();
    // Neighbours that look for one another lose a few packets, too.
    assert!(
        (lost..lost + 100).contains(&told.parse().unwrap()),
        "{lost} were lost, and not:\n{status}"
    );

    lab.told("burst 0.1 5");
    let came = lab.send(20_000);
    assert!((share(&came) - 0.1).abs() < 0.04, "{}", share(&came));
    let bursts = came.windows(2).filter(|pair| pair[0] && !pair[1]).count();
    let mean = share(&came) * came.len() as f64 / bursts as f64;
    assert!((mean - 5.0).abs() < 1.4, "{mean}");

    lab.told("loss 0");
    assert_eq!(share(&lab.send(2_000)), 0.0);
}

#[test]
fn packets_are_late_and_few_as_it_is_told() {
    let Some(lab) = Lab::up("late") else { return };
    let (from, to) = (lab.socket(1), lab.socket(2));
    from.connect(("10.77.0.2", PORT)).unwrap();
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();

    // Twice, for the second has to take the place of the first.
    for (delay, least) in [("delay 200", 200), ("delay 20 --jitter 30 --host 2", 20)] {
        lab.told(delay);
        let mut packet = [0];
        for number in 0..20 {
            let sent = Instant::now();
            from.send(&[number]).unwrap();
            to.recv(&mut packet).unwrap();
            assert_eq!(packet, [number]);
            assert!(
                sent.elapsed() >= Duration::from_millis(least),
                "{delay}: {:?}",
                sent.elapsed()
            );
        }
        for number in 0..100 {
            from.send(&[number]).unwrap();
        }
        for number in 0..100 {
            to.recv(&mut packet).unwrap();
            assert_eq!(packet, [number], "overtaken");
        }
    }
    lab.told("delay 0");

    lab.told("rate 1 --host 1");
    to.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let start = Instant::now();
    for _ in 0..200 {
        from.send(&[0; 1400]).unwrap();
    }
    let (mut bytes, mut took) = (0.0, Duration::ZERO);
    while to.recv(&mut [0; 1400]).is_ok() {
        bytes += 1442.0;
        took = start.elapsed();
    }
    // 125,000 bytes a second, and two frames that may go at once.
    let most = 125_000.0 * took.as_secs_f64() + 2.0 * 1514.0;
    assert!(bytes > 0.0 && bytes <= most, "{bytes} bytes in {took:?}");
}

#[test]
fn a_profile_sets_everything() {
    let Some(lab) = Lab::up("profile") else {
        return;
    };
    lab.told("profile bad-wifi");
    let came = lab.send(3_000);
    assert!(share(&came) > 0.0 && share(&came) < 0.5, "{}", share(&came));
    assert!(
        lab.told("run --host 2 tc qdisc show dev eth0")
            .contains("rate 8Mbit")
    );
    lab.told("profile wired");
    assert_eq!(share(&lab.send(1_000)), 0.0);
}

#[test]
fn hosts_have_a_core_and_go_with_all_that_runs_on_them() {
    let Some(lab) = Lab::up("hosts") else { return };
    let status = lab.told("run --host 2 cat /proc/self/status");
    let cores = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    assert!(
        cores.trim().parse::<usize>().is_ok(),
        "not one core: {cores}"
    );
    lab.told("cpu --share 0.5 --host 2");
    lab.told("memory 500");

    lab.told("delay 1");
    let mut sleeper = lab.xtask("run --host 2 sleep 1000").spawn().unwrap();
    let name = lab.namespace(2);
    let name = name.file_name().unwrap();
    let on_host = || {
        Command::new("ip")
            .args(["netns", "pids"])
            .arg(name)
            .output()
            .unwrap()
            .stdout
    };
    while on_host().is_empty() {
        thread::sleep(Duration::from_millis(10));
    }
    lab.told("down");
    assert!(!sleeper.wait().unwrap().success());
    let left = left(&lab);
    assert!(left.is_empty(), "{left:?}");
    // Nothing to do is no failure.
    lab.told("down");
    let status = lab.xtask("status").output().unwrap();
    assert!(String::from_utf8_lossy(&status.stderr).contains("lab up"));
}

#[test]
fn what_fails_leaves_nothing() {
    let Some(lab) = Lab::up("fails") else { return };
    let folder = tempfile::tempdir().unwrap();
    let nft = folder.path().join("nft");
    fs::write(
        &nft,
        "#!/bin/sh\n[ \"$1\" != -f ] || { echo broken >&2; exit 1; }\n",
    )
    .unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let output = lab.xtask("up").env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("broken"),
        "{said}"
    );
    let left = left(&lab);
    assert!(left.is_empty(), "{left:?}");
}

/// What there still is of a lab: network namespaces and control groups.
fn left(lab: &Lab) -> BTreeSet<PathBuf> {
    let groups = fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let folders = groups.chain([PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/run/netns")]);
    let entries = folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains(&format!("halo-{}-", lab.0)))
        .collect()
}

/// What is waited for is the same, however it travels and whatever is lost.
#[test]
fn text_is_the_same_over_udp_that_loses_and_over_tcp() {
    let Some(lab) = Lab::up("text") else { return };
    // What was built for the tests of the whole workspace; it would be built again with other features.
    let halo = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("halo");
    assert!(
        halo.exists(),
        "build it first: cargo build --release --workspace --bin halo"
    );
    let halo = halo.display();
    let generate = |transport: &str| {
        let options =
            "--scheduler scheduler-even --sync strict --ignore-eos --max-tokens 12 --json Once";
        let told = lab.told(&format!(
            "generate --halo {halo} --transport {transport} -- {options}"
        ));
        let done = told.lines().last().unwrap();
        let done: serde_json::Value = serde_json::from_str(done).unwrap();
        assert!(done["counts"]["rounds"].as_u64().unwrap() > 0, "{done}");
        done["tokens"].clone()
    };
    lab.told("burst 0.05 3");
    let udp = generate("udp");
    assert_eq!(udp.as_array().unwrap().len(), 12);
    lab.told("loss 0.01");
    assert_eq!(generate("tcp"), udp);
}
