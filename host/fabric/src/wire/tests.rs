use proptest::prelude::*;

use super::*;

fn activation() -> Header {
    Header {
        flags: 0x80,
        layer: 0x0102,
        generation: 0x1122_3344_5566_7788,
        epoch: 0xa1a2_a3a4,
        step: 0xb1b2_b3b4,
        chunk: 1,
        ..Header::of_tensor(
            Kind::Activation,
            &TensorShape::new(2, 2, Encoding::F16).unwrap(),
        )
    }
}

fn parity() -> Header {
    Header {
        chunk: 2,
        parity: true,
        ..activation()
    }
}

fn ask() -> Header {
    Header {
        flags: ASK_PARTIAL,
        chunk: 3,
        ..Header::of_tensor(Kind::Ask, &TensorShape::new(4, 2048, Encoding::Q8).unwrap())
    }
}

/// A packet of each kind, with the bytes it has had since version 1.
fn golden() -> Vec<(Header, u32, Vec<u8>, &'static str)> {
    let partial = Header {
        kind: Kind::Partial,
        flags: 0,
        ..activation()
    };
    vec![
        (
            activation(),
            0xc1c2_c3c4,
            vec![0x00, 0x3c, 0x00, 0xc0],
            "484c 01 01 01 80 0201 8877665544332211 a4a3a2a1 b4b3b2b1 02000000 c4c3c2c1 0200 0100 0200 0000 003c00c0",
        ),
        (
            partial,
            5,
            vec![1, 2, 3, 4],
            "484c 01 02 01 00 0201 8877665544332211 a4a3a2a1 b4b3b2b1 02000000 05000000 0200 0100 0200 0000 01020304",
        ),
        (
            parity(),
            5,
            vec![1, 2, 3, 4],
            "484c 01 01 01 80 0201 8877665544332211 a4a3a2a1 b4b3b2b1 02000000 05000000 0200 0200 0200 0100 01020304",
        ),
        (
            Header {
                block: Block::Attention,
                ..activation()
            },
            9,
            vec![4, 3, 2, 1, 8, 7, 6, 5, 0x00, 0x3c, 0x00, 0xc0],
            "484c 01 01 01 80 0201 8877665544332211 a4a3a2a1 b4b3b2b1 02000000 09000000 0200 0100 0200 0001 04030201 08070605 003c00c0",
        ),
        (
            ask(),
            6,
            vec![0b1_0001],
            "484c 01 03 02 01 0000 0000000000000000 00000000 00000000 00080000 06000000 0400 0300 0800 0000 11",
        ),
        (
            Header::of_heartbeat(Kind::Ping),
            7,
            vec![8; PING_BYTES],
            "484c 01 04 00 00 0000 0000000000000000 00000000 00000000 00000000 07000000 0000 0000 0000 0000 0808080808080808",
        ),
        (
            Header::of_heartbeat(Kind::Pong),
            8,
            vec![9; PONG_BYTES],
            "484c 01 05 00 00 0000 0000000000000000 00000000 00000000 00000000 08000000 0000 0000 0000 0000 \
             090909090909090909090909090909090909090909090909",
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn packets_have_the_bytes_they_always_had() {
    for (header, sequence, body, bytes) in golden() {
        let packet = header.write(sequence, &body).unwrap();
        assert_eq!(hex(&packet), bytes.replace(' ', ""), "{:?}", header.kind);
        let parsed = Packet::parse(&packet).unwrap();
        assert_eq!(
            parsed,
            Packet {
                header,
                sequence,
                body: &body
            }
        );
    }
}

#[test]
fn asked_chunks_are_read_from_the_bitmap() {
    let packet = ask().write(0, &[0b1_0001]).unwrap();
    let asked: Vec<u16> = Packet::parse(&packet).unwrap().asked().collect();
    assert_eq!(asked, [3, 7]);
    let other = activation().write(0, &[0; 4]).unwrap();
    assert_eq!(Packet::parse(&other).unwrap().asked().count(), 0);
}

#[test]
fn fields_that_do_not_fit_are_refused() {
    let body = [0; 4];
    let check = |header: Header, body: &[u8]| header.write(0, body).unwrap_err();
    assert_eq!(
        check(activation(), &body[1..]),
        WireError::Body { actual: 3 }
    );
    let beyond = Header {
        chunk: 2,
        ..activation()
    };
    assert!(matches!(check(beyond, &body), WireError::Chunk { .. }));
    let miscounted = Header {
        chunks: 3,
        ..activation()
    };
    assert!(matches!(check(miscounted, &body), WireError::Chunk { .. }));
    let too_many = TensorShape::new(9, 2, Encoding::F16).unwrap();
    let too_many = Header {
        parity: true,
        ..Header::of_tensor(Kind::Activation, &too_many)
    };
    assert_eq!(check(too_many, &body), WireError::Field);
    assert_eq!(check(parity(), &body[1..]), WireError::Body { actual: 3 });
    let beyond_parity = Header {
        chunk: 3,
        ..parity()
    };
    assert!(matches!(
        check(beyond_parity, &body),
        WireError::Chunk { .. }
    ));
    let no_rows = Header {
        rows: 0,
        ..activation()
    };
    assert!(matches!(check(no_rows, &body), WireError::Shape(_)));
    // A bitmap of nothing, one with a bit for a chunk that there is not, and one longer than there are chunks.
    assert!(matches!(check(ask(), &[]), WireError::Body { .. }));
    assert!(matches!(check(ask(), &[0b10_0000]), WireError::Body { .. }));
    assert!(matches!(check(ask(), &[1, 0]), WireError::Body { .. }));
    let flagged = Header { flags: 2, ..ask() };
    assert_eq!(check(flagged, &[1]), WireError::Field);
    let layered = Header {
        layer: 1,
        ..Header::of_heartbeat(Kind::Ping)
    };
    assert_eq!(check(layered, &[0; PING_BYTES]), WireError::Field);
    assert_eq!(
        check(Header::of_heartbeat(Kind::Pong), &[0; PING_BYTES]),
        WireError::Body { actual: PING_BYTES }
    );
}

#[test]
fn foreign_bytes_are_refused_by_name() {
    let good = activation().write(0, &[0; 4]).unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Packet::parse(&bytes).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(0, b'X'), WireError::Magic);
    assert_eq!(with(2, 2), WireError::Version(2));
    assert_eq!(with(3, 0), WireError::Kind(0));
    assert_eq!(with(3, 6), WireError::Kind(6));
    assert_eq!(with(4, 4), WireError::Encoding(4));
    assert_eq!(with(38, 2), WireError::Field);
    assert_eq!(with(39, 2), WireError::Field);
    assert_eq!(
        with(39, 1),
        WireError::Body { actual: 4 },
        "without a place"
    );
    assert_eq!(
        Packet::parse(&good[..HEADER_BYTES - 1]).unwrap_err(),
        WireError::Length(HEADER_BYTES - 1)
    );
    let long = vec![0; MAX_PACKET_BYTES + 1];
    assert_eq!(
        Packet::parse(&long).unwrap_err(),
        WireError::Length(MAX_PACKET_BYTES + 1)
    );
}

#[test]
fn an_attentions_row_has_its_place() {
    let place = Place {
        text: 0x0102_0304,
        position: 0x0506_0708,
    };
    let mut body = Vec::new();
    place.write(&mut body);
    body.extend([1, 2, 3, 4]);
    let attention = Header {
        block: Block::Attention,
        ..activation()
    };
    assert_eq!(attention.split(&body), (Some(place), &[1, 2, 3, 4][..]));
    assert_eq!(activation().split(&body), (None, &body[..]));
    let partial = Header {
        kind: Kind::Partial,
        ..attention
    };
    assert_eq!(partial.split(&body), (None, &body[..]));
}

/// Does with bytes whatever a receiver does.
fn use_packet(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(packet) = Packet::parse(bytes) else {
        return Ok(());
    };
    // What was read is written as it was.
    let written = packet.header.write(packet.sequence, packet.body).unwrap();
    prop_assert_eq!(&written, bytes);
    prop_assert!(packet.asked().all(|chunk| chunk < packet.header.chunks));
    let of_tensor = matches!(packet.header.kind, Kind::Activation | Kind::Partial);
    if of_tensor && !packet.header.is_parity() {
        let shape = packet.header.shape().unwrap();
        let mut values = vec![0.0; shape.range(packet.header.chunk).len()];
        if shape
            .encoding()
            .decode(packet.header.split(packet.body).1, &mut values)
        {
            prop_assert!(values.iter().all(|v| v.is_finite()));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        use_packet(&bytes)?;
    }

    #[test]
    fn any_fields_are_read_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES..HEADER_BYTES + 200),
        kind in 0..7_u8,
        encoding in 0..5_u8,
        small in any::<bool>(),
        attention in any::<bool>(),
    ) {
        bytes[..5].copy_from_slice(&[b'H', b'L', VERSION, kind, encoding]);
        bytes[39] = u8::from(attention);
        if small {
            for high in [25, 26, 27, 33, 35, 37] {
                bytes[high] = 0;
            }
        }
        use_packet(&bytes)?;
    }

    #[test]
    fn mutated_packets_are_read_or_refused(
        which in 0..7_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (header, sequence, body, _) = golden().swap_remove(which);
        let mut bytes = header.write(sequence, &body).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        use_packet(&bytes)?;
    }
}
