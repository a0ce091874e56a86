use proptest::prelude::*;

use super::*;
use crate::{Kind, Packet};

fn shape(rows: usize, width: usize, encoding: Encoding) -> TensorShape {
    TensorShape::new(rows, width, encoding).unwrap()
}

fn header(shape: &TensorShape, chunk: u16) -> Header {
    Header {
        chunk,
        ..Header::of_tensor(Kind::Activation, shape)
    }
}

#[test]
fn a_row_of_2048_takes_few_packets() {
    for (encoding, chunks) in [
        (Encoding::F32, 7),
        (Encoding::F16, 4),
        (Encoding::Q8, 2),
        (Encoding::Q4, 1),
    ] {
        assert_eq!(shape(1, 2048, encoding).chunks(), chunks, "{encoding:?}");
        assert_eq!(shape(3, 2048, encoding).chunks(), 3 * chunks);
    }
    // Two equal halves, rather than a full packet and a rest.
    assert_eq!(shape(1, 2048, Encoding::Q8).range(1), 1024..2048);
    assert_eq!(shape(2, 2048, Encoding::Q8).range(3), 3072..4096);
}

#[test]
fn limits_hold() {
    let new = |rows, width| TensorShape::new(rows, width, Encoding::F32);
    assert_eq!(new(0, 1), Err(ShapeError::Rows(0)));
    assert_eq!(new(1025, 1), Err(ShapeError::Rows(1025)));
    assert_eq!(new(1, 0), Err(ShapeError::Width(0)));
    assert_eq!(new(1, 65_537), Err(ShapeError::Width(65_537)));
    assert!(matches!(new(1024, 65_536), Err(ShapeError::Chunks(_))));
    assert!(new(1, 65_536).is_ok());
    assert!(new(1024, 16_384).is_ok());
}

#[test]
fn strange_chunks_change_nothing() {
    let shape = shape(2, 100, Encoding::Q8);
    let mut assembly = Assembly::new(shape);
    let values = vec![1.0; 200];
    let mut body = Vec::new();
    shape.encode_chunk(0, &values, &mut body);
    let good = header(&shape, 0);

    let rejected = |reason| Accepted::Rejected(reason);
    for bad in [
        Header { rows: 3, ..good },
        Header { width: 99, ..good },
        Header { chunks: 1, ..good },
        Header {
            encoding: Encoding::F32,
            ..good
        },
    ] {
        assert_eq!(assembly.accept(&bad, &body), rejected(Rejection::Shape));
    }
    let beyond = Header { chunk: 2, ..good };
    assert_eq!(assembly.accept(&beyond, &body), rejected(Rejection::Chunk));
    assert_eq!(
        assembly.accept(&good, &body[1..]),
        rejected(Rejection::Body)
    );
    let mut nan = body.clone();
    // The scale of the last block, after values that decode.
    let scale = nan.len() - 6;
    nan[scale..scale + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    assert_eq!(assembly.accept(&good, &nan), rejected(Rejection::Body));
    assert!(assembly.values().iter().all(|&v| v == 0.0));
    assert_eq!(assembly.missing_count(), 2);

    assert_eq!(assembly.accept(&good, &body), Accepted::New);
    assert_eq!(assembly.accept(&good, &body), Accepted::Duplicate);
    assert!(assembly.has(0) && !assembly.has(1) && !assembly.has(9999));
    assembly.reset();
    assert_eq!(assembly.missing().collect::<Vec<_>>(), [0, 1]);
    assert!(assembly.values().iter().all(|&v| v == 0.0));
}

/// The chunks that an assembly asks for now.
fn ask(assembly: &mut Assembly) -> Vec<u16> {
    let shape = *assembly.shape();
    let Some((first, bits)) = assembly.ask() else {
        return Vec::new();
    };
    let header = Header {
        kind: Kind::Ask,
        ..header(&shape, first)
    };
    let packet = header.write(0, &bits).unwrap();
    Packet::parse(&packet).unwrap().asked().collect()
}

#[test]
fn what_is_beyond_the_window_is_asked_for_by_the_window() {
    let shape = shape(1024, 16_384, Encoding::F32);
    let mut assembly = Assembly::new(shape);
    let mut asked = Vec::new();
    let mut under_way: Vec<u16> = (0..WINDOW).collect();
    while !under_way.is_empty() {
        for &chunk in &under_way {
            let header = header(&shape, chunk);
            let body = vec![0; shape.chunk_bytes(chunk)];
            assert_eq!(assembly.accept(&header, &body), Accepted::New);
            let last = under_way.last() == Some(&chunk);
            assert_eq!(assembly.is_last(&header), last);
        }
        under_way = ask(&mut assembly);
        assert!(under_way.len() <= usize::from(WINDOW));
        asked.extend_from_slice(&under_way);
    }
    assert!(asked.into_iter().eq(WINDOW..shape.chunks()));
    assert!(assembly.complete());
}

#[test]
fn chunks_that_are_far_apart_take_several_askings() {
    let shape = shape(1024, 16_384, Encoding::F32);
    let mut assembly = Assembly::new(shape);
    let far = (MAX_BODY_BYTES * 8) as u16;
    for chunk in (0..shape.chunks()).filter(|chunk| ![1, far, far + 1].contains(chunk)) {
        let body = vec![0; shape.chunk_bytes(chunk)];
        assembly.accept(&header(&shape, chunk), &body);
    }
    assert_eq!(ask(&mut assembly), [1, far]);
    let is_last = |chunk| assembly.is_last(&header(&shape, chunk));
    assert!(is_last(far) && !is_last(1));
}

/// Shapes small enough to try many.
fn shapes() -> impl Strategy<Value = TensorShape> {
    (
        1..5_usize,
        1..3000_usize,
        prop::sample::select(Encoding::ALL.to_vec()),
    )
        .prop_map(|(rows, width, encoding)| shape(rows, width, encoding))
}

proptest! {
    #[test]
    fn chunks_cover_every_value_once(shape in shapes()) {
        let mut next = 0;
        for chunk in 0..shape.chunks() {
            let range = shape.range(chunk);
            prop_assert_eq!(range.start, next);
            prop_assert!(!range.is_empty());
            prop_assert_eq!(shape.row(chunk), range.start / shape.width());
            prop_assert_eq!(shape.row(chunk), (range.end - 1) / shape.width());
            prop_assert!(shape.chunk_bytes(chunk) <= MAX_BODY_BYTES);
            next = range.end;
        }
        prop_assert_eq!(next, shape.values());
        prop_assert_eq!(shape.chunks(), shape.chunks_per_row() * shape.rows() as u16);
    }

    #[test]
    fn parity_makes_up_for_any_one_packet_and_no_more(
        shape in shapes(),
        seed in any::<u64>(),
        losses in 0..3_usize,
    ) {
        use rand::seq::SliceRandom as _;
        use rand::{RngExt as _, SeedableRng as _};
        let Some(mut parity) = Parity::new(&shape) else {
            return Ok(());
        };
        let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.values()).map(|_| random.random_range(-3.0..3.0)).collect();
        let with_parity = |chunk| Header { parity: true, ..header(&shape, chunk) };
        let mut packets = Vec::new();
        for chunk in 0..shape.chunks() {
            let mut body = Vec::new();
            shape.encode_chunk(chunk, &values, &mut body);
            parity.add(&body);
            packets.push((with_parity(chunk), body));
        }
        packets.push((with_parity(shape.chunks()), parity.body().to_vec()));
        let mut whole = Assembly::new(shape);
        packets.iter().for_each(|(header, body)| { whole.accept(header, body); });
        prop_assert!(whole.is_last(&packets.last().unwrap().0));

        packets.shuffle(&mut random);
        let lost = losses.min(packets.len());
        let mut assembly = Assembly::new(shape);
        packets[lost..].iter().for_each(|(header, body)| { assembly.accept(header, body); });
        prop_assert_eq!(assembly.complete(), lost <= 1);
        if lost <= 1 {
            prop_assert_eq!(assembly.values(), whole.values());
        }
        // What was lost comes late: nothing changes if it was made up for, and otherwise it is as good as ever.
        for (header, body) in &packets {
            assembly.accept(header, body);
        }
        prop_assert_eq!(assembly.values(), whole.values());
    }

    #[test]
    fn a_tensor_arrives_in_any_order_with_losses_repaired(
        shape in shapes(),
        seed in any::<u64>(),
    ) {
        use rand::seq::SliceRandom as _;
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.values()).map(|_| random.random_range(-3.0..3.0)).collect();
        let packets: Vec<Vec<u8>> = (0..shape.chunks())
            .map(|chunk| {
                let mut body = Vec::new();
                shape.encode_chunk(chunk, &values, &mut body);
                header(&shape, chunk).write(0, &body).unwrap()
            })
            .collect();

        let mut assembly = Assembly::new(shape);
        let mut order: Vec<u16> = (0..shape.chunks()).collect();
        order.shuffle(&mut random);
        for &chunk in order.iter().filter(|&chunk| chunk % 3 != 1) {
            let packet = Packet::parse(&packets[usize::from(chunk)]).unwrap();
            prop_assert_eq!(assembly.accept(&packet.header, packet.body), Accepted::New);
        }
        let missing: Vec<u16> = (0..shape.chunks()).filter(|chunk| chunk % 3 == 1).collect();
        prop_assert_eq!(assembly.missing().collect::<Vec<_>>(), missing.clone());
        prop_assert_eq!(usize::from(assembly.missing_count()), missing.len());

        let mut asked = Vec::new();
        while !assembly.complete() {
            for chunk in ask(&mut assembly) {
                let packet = Packet::parse(&packets[usize::from(chunk)]).unwrap();
                prop_assert_eq!(assembly.accept(&packet.header, packet.body), Accepted::New);
                asked.push(chunk);
            }
        }
        prop_assert_eq!(asked, missing);
        prop_assert!(assembly.complete());

        // The same as encoding and decoding each row's range by itself; exact for F32.
        let mut expected = vec![0.0; values.len()];
        for chunk in 0..shape.chunks() {
            let mut body = Vec::new();
            shape.encoding().encode(&values[shape.range(chunk)], &mut body);
            prop_assert!(shape.encoding().decode(&body, &mut expected[shape.range(chunk)]));
        }
        prop_assert_eq!(assembly.values(), &expected);
        if shape.encoding() == Encoding::F32 {
            prop_assert_eq!(assembly.into_values(), values);
        }
    }
}
