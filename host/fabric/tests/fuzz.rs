//! Mutations of packets, given to everything that reads packets.
//!
//! It begins with the packets in `tests/corpus`, and tries as many mutations as `HALO_FUZZ_RUNS` says, from the seed
//! `HALO_FUZZ_SEED`. What fails is printed, to be added to the corpus.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use halo_fabric::{Accepted, Assembly, Encoding, HEADER_BYTES, Kind, MAX_PACKET_BYTES, Packet};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// What CI tries: a few seconds' worth.
const RUNS: u64 = 2_000_000;

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = std::fs::read_dir(folder).expect("the corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a packet");
    paths.into_iter().map(read).collect()
}

/// Does with bytes what nodes do. True if they are a packet.
fn use_packet(bytes: &[u8]) -> bool {
    let Ok(packet) = Packet::parse(bytes) else {
        return false;
    };
    let written = packet.header.write(packet.sequence, packet.body);
    assert_eq!(written.as_deref(), Ok(bytes), "read and written again");
    let asked: Vec<u16> = packet.asked().collect();
    assert!(asked.is_sorted_by(|a, b| a < b));
    assert!(asked.iter().all(|chunk| *chunk < packet.header.chunks));
    if matches!(packet.header.kind, Kind::Ping | Kind::Pong) {
        return true;
    }
    let shape = packet.header.shape().expect("a shape that was checked");
    if packet.header.kind == Kind::Ask || shape.values() > 1 << 16 {
        return true;
    }
    let mut assembly = Assembly::new(shape);
    let (_, body) = packet.header.split(packet.body);
    let accepted = assembly.accept(&packet.header, body);
    // The parity alone is a chunk if there is but one, and nothing otherwise.
    let chunk = packet.header.chunk.min(shape.chunks() - 1);
    let range = shape.range(chunk);
    let whole = assembly.values();
    assert!(whole.iter().all(|value| value.is_finite()));
    assert!(whole[..range.start].iter().all(|value| *value == 0.0));
    assert!(whole[range.end..].iter().all(|value| *value == 0.0));
    match accepted {
        Accepted::New => assert!(assembly.has(chunk)),
        Accepted::Duplicate => panic!("nothing came before"),
        Accepted::Spare | Accepted::Rejected(_) => {
            assert!(whole[range].iter().all(|value| *value == 0.0))
        }
    }
    let missing = usize::from(assembly.missing_count());
    assert_eq!(assembly.ask().is_some(), missing > 0);
    true
}

/// Changes bytes in one of the ways in which they go wrong or are made to.
fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Xoshiro256PlusPlus) {
    if bytes.is_empty() {
        bytes.push(random.random());
    }
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..8) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(random).expect("a byte"),
        2 => bytes[at] = random.random(),
        3 => bytes.truncate(at),
        4 => bytes.insert(at, random.random()),
        5 => drop(bytes.remove(at)),
        // A field of the header.
        6 => {
            let at = 2 * random.random_range(1..HEADER_BYTES / 2);
            let value = [0, 1, 2, 32, 64, 320, 1024, 2048, u16::MAX];
            let value = value.choose(random).expect("a number").to_le_bytes();
            for (byte, value) in bytes.iter_mut().skip(at).zip(value) {
                *byte = value;
            }
        }
        // One packet's head and another's body.
        _ => {
            let other = corpus.choose(random).expect("a packet");
            bytes.truncate(HEADER_BYTES);
            bytes.extend(other.iter().skip(HEADER_BYTES));
        }
    }
}

#[test]
fn the_corpus_has_all_kinds_and_encodings() {
    let packets = corpus();
    let parsed: Vec<_> = packets.iter().map(|p| Packet::parse(p)).collect();
    let good = || parsed.iter().flatten().map(|packet| packet.header);
    let kinds: BTreeSet<Kind> = good().map(|header| header.kind).collect();
    assert!(Kind::ALL.iter().all(|kind| kinds.contains(kind)));
    let encodings: BTreeSet<u8> = good().map(|header| header.encoding as u8).collect();
    assert_eq!(encodings.len(), Encoding::ALL.len());
    assert!(packets.iter().all(|packet| use_packet(packet)));
}

#[test]
fn mutated_packets_are_read_or_refused() {
    let corpus = corpus();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(setting("HALO_FUZZ_SEED", 1));
    let mut good = 0;
    for run in 0..setting("HALO_FUZZ_RUNS", RUNS) {
        let mut bytes = corpus.choose(&mut random).expect("a packet").clone();
        for _ in 0..random.random_range(1..=4) {
            mutate(&mut bytes, &corpus, &mut random);
        }
        bytes.truncate(2 * MAX_PACKET_BYTES);
        let used = catch_unwind(AssertUnwindSafe(|| use_packet(&bytes)));
        let hex = || bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        good += u64::from(used.unwrap_or_else(|_| panic!("run {run} failed with {}", hex())));
    }
    assert!(good > 0, "mutations that are still packets");
}
