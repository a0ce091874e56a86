/// What the flags of a tensor's packets say: which asking they answer, and how often each is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sending {
    /// 0 for the first sending, n for the answer to the n-th asking. A partial has the number of the activation that it was
    /// computed from.
    pub(crate) number: u8,
    /// Of an activation, how often its worker is to send each packet of the partial: 1 to 4.
    pub(crate) copies: u8,
}

impl Sending {
    /// The number of all askings from this one on.
    pub(crate) const LAST: u8 = 0x3f;

    /// The sending that answers an asking.
    pub(crate) fn answer_to(asking: usize, copies: u8) -> Self {
        Self {
            number: asking.min(usize::from(Self::LAST)) as u8,
            copies,
        }
    }

    pub(crate) fn of_flags(flags: u8) -> Self {
        Self {
            number: flags & Self::LAST,
            copies: (flags >> 6) + 1,
        }
    }

    pub(crate) fn flags(self) -> u8 {
        self.number | (self.copies.clamp(1, 4) - 1) << 6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_was_meant() {
        for copies in 1..=4 {
            for asking in [0, 1, 62, 63, 64, 10_000] {
                let sending = Sending::answer_to(asking, copies);
                assert_eq!(sending.number, asking.min(63) as u8);
                assert_eq!(Sending::of_flags(sending.flags()), sending);
            }
        }
    }
}
