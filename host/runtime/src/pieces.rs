//! Components in pieces, as they travel on the control plane: no piece holds up other calls for long, and what has arrived
//! need not be sent again.

use std::collections::BTreeMap;
use std::fmt::Write;

use halo_policy::Digest;
use serde::{Deserialize, Serialize};

use crate::messages::{Piece, Push};

/// Bytes of a component in one message.
pub(crate) const PIECE: usize = 256 << 10;

/// Components that may be on their way here at once.
const MAX_UNDER_WAY: usize = 4;

/// Bytes in JSON, which has none: base64 is not worth a dependency for something that is sent once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hex(String);

impl Hex {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    pub(crate) fn decode(&self) -> Result<Vec<u8>, String> {
        let digit = |c: u8| {
            (c as char)
                .to_digit(16)
                .ok_or_else(|| "a component's bytes are not hexadecimal".to_owned())
        };
        let (pairs, rest) = self.0.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a component's bytes are cut off".into());
        }
        pairs
            .iter()
            .map(|[high, low]| Ok((digit(*high)? << 4 | digit(*low)?) as u8))
            .collect()
    }
}

/// The piece of a component that begins at `offset`.
pub(crate) fn piece_of(component: &[u8], offset: u64) -> Piece {
    let from = usize::try_from(offset).map_or(component.len(), |at| at.min(component.len()));
    let to = (from + PIECE).min(component.len());
    Piece {
        size: component.len() as u64,
        piece: Hex::new(&component[from..to]),
    }
}

/// Components that have arrived in part.
#[derive(Debug, Default)]
pub(crate) struct Incoming(BTreeMap<Digest, Vec<u8>>);

impl Incoming {
    /// Adds a piece. Gives the component once it is whole and has its digest, else how many bytes there are.
    ///
    /// # Errors
    ///
    /// It is larger than `limit`, or its bytes are not those that it should have; then what had come of it is forgotten.
    pub(crate) fn add(
        &mut self,
        push: &Push,
        limit: usize,
    ) -> Result<Result<Vec<u8>, u64>, String> {
        let Push { name, digest, .. } = push;
        if push.size > limit as u64 {
            return Err(format!(
                "policy {name:?} has {} bytes; {limit} are allowed",
                push.size
            ));
        }
        let piece = push.piece.decode()?;
        if !self.0.contains_key(digest) && self.0.len() == MAX_UNDER_WAY {
            // Whoever sent it will begin anew.
            self.0.pop_first();
        }
        let bytes = self.0.entry(*digest).or_default();
        let fits = push.offset == bytes.len() as u64
            && bytes.len() as u64 + piece.len() as u64 <= push.size;
        if fits {
            bytes.extend_from_slice(&piece);
        }
        if (bytes.len() as u64) < push.size {
            return Ok(Err(bytes.len() as u64));
        }
        let bytes = self.0.remove(digest).unwrap_or_default();
        let found = Digest::of(&bytes);
        if found == *digest {
            Ok(Ok(bytes))
        } else {
            Err(format!(
                "policy {name:?} has digest {found}, not {digest}: it was changed or damaged on its way"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(component: &[u8], offset: usize, piece: &[u8]) -> Push {
        Push {
            name: "mine".into(),
            digest: Digest::of(component),
            size: component.len() as u64,
            offset: offset as u64,
            piece: Hex::new(piece),
        }
    }

    #[test]
    fn pieces_add_up_whatever_is_sent_twice() {
        let component: Vec<u8> = (0..=255).collect();
        let mut incoming = Incoming::default();
        let mut add = |offset, piece: &[u8]| incoming.add(&push(&component, offset, piece), 256);
        assert_eq!(add(0, &[]), Ok(Err(0)), "asked how much there is");
        assert_eq!(add(0, &component[..100]), Ok(Err(100)));
        assert_eq!(add(0, &component[..100]), Ok(Err(100)), "sent twice");
        assert_eq!(
            add(200, &component[200..]),
            Ok(Err(100)),
            "one between is missing"
        );
        assert_eq!(add(100, &component), Ok(Err(100)), "too much");
        assert_eq!(add(100, &component[100..]), Ok(Ok(component.clone())));
    }

    #[test]
    fn what_was_damaged_begins_anew() {
        let mut incoming = Incoming::default();
        let error = incoming.add(&push(b"good", 0, b"evil"), 10).unwrap_err();
        assert!(error.contains("changed or damaged"), "{error}");
        assert_eq!(incoming.add(&push(b"good", 0, b""), 10), Ok(Err(0)));
        let error = incoming.add(&push(b"good", 0, b"good"), 3).unwrap_err();
        assert!(error.contains("4 bytes; 3 are allowed"), "{error}");
    }

    #[test]
    fn only_so_many_are_kept_under_way() {
        let mut incoming = Incoming::default();
        for number in 0..100u8 {
            let component = [number; 2];
            assert_eq!(incoming.add(&push(&component, 0, &[number]), 2), Ok(Err(1)));
        }
        assert_eq!(incoming.0.len(), MAX_UNDER_WAY);
    }

    #[test]
    fn any_text_is_read() {
        for bytes in [&b""[..], b"\0", &[0xff; 3]] {
            assert_eq!(Hex::new(bytes).decode().as_deref(), Ok(bytes));
        }
        for text in ["0", "0g", "é"] {
            assert!(Hex(text.into()).decode().is_err(), "{text}");
        }
    }

    #[test]
    fn past_the_end_there_is_nothing() {
        let component = vec![1; PIECE + 1];
        assert_eq!(piece_of(&component, 0).piece.decode().unwrap().len(), PIECE);
        assert_eq!(piece_of(&component, PIECE as u64).piece, Hex::new(&[1]));
        for offset in [PIECE as u64 + 1, u64::MAX] {
            assert_eq!(piece_of(&component, offset).piece, Hex::default());
        }
    }
}
