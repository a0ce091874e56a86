//! A round as its worker sees it: what has come of the activation, and what a packet calls for.
//!
//! Nothing here sends, receives or computes, so that every course that a round can take can be tried.

use halo_fabric::{Accepted, Assembly, Header, Place, TensorShape};

use crate::sending::Sending;

/// What a packet calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// More has to come.
    Nothing,
    /// It came twice, or cannot be of this activation.
    Useless,
    /// Ask for what is missing: nothing more is under way.
    Ask,
    /// The activation is whole. Compute the partial, and send it, each packet so often.
    Compute { copies: u8 },
    /// The leader has sent the activation again since it misses the partial: send that again, each packet so often.
    Answer { copies: u8 },
}

/// An activation in the making, and then whole.
#[derive(Debug, Clone)]
pub(crate) struct Gathering {
    activation: Assembly,
    /// Of an attention's rows, as far as packets have told them.
    places: Vec<Place>,
    /// The asking that was answered last.
    answered: u8,
    /// The activation comes with its parity, and so the partial is to go back.
    parity: bool,
}

impl Gathering {
    pub(crate) fn new(shape: TensorShape) -> Self {
        Self {
            activation: Assembly::new(shape),
            places: vec![Place::default(); shape.rows()],
            answered: 0,
            parity: false,
        }
    }

    /// What has come.
    pub(crate) fn activation(&self) -> &Assembly {
        &self.activation
    }

    /// Where the rows of an attention's activation belong, once it is whole.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// What a partial says that is sent now.
    pub(crate) fn answered(&self) -> Sending {
        Sending::answer_to(self.answered.into(), 1)
    }

    /// Whether the partial goes back with its parity.
    pub(crate) fn parity(&self) -> bool {
        self.parity
    }

    /// Takes a packet of the activation.
    pub(crate) fn take(&mut self, header: &Header, body: &[u8]) -> Step {
        let Sending { number, copies } = Sending::of_flags(header.flags);
        let (place, body) = header.split(body);
        let accepted = self.activation.accept(header, body);
        let complete = self.activation.complete();
        self.parity |= header.parity;
        if let (Accepted::New | Accepted::Spare, Some(place)) = (accepted, place) {
            // An activation with places and parity has one row, which both are of.
            let last = self.places.len() - 1;
            self.places[self.activation.shape().row(header.chunk).min(last)] = place;
        }
        match accepted {
            Accepted::New if complete => {
                self.answered = number;
                Step::Compute { copies }
            }
            // Of an activation that is sent again, the first packet to come is answered.
            Accepted::Duplicate | Accepted::Spare
                if complete && (number > self.answered || number == Sending::LAST) =>
            {
                self.answered = number;
                Step::Answer { copies }
            }
            Accepted::New | Accepted::Spare if !complete && self.activation.is_last(header) => {
                Step::Ask
            }
            Accepted::New | Accepted::Spare => Step::Nothing,
            Accepted::Duplicate | Accepted::Rejected(_) => Step::Useless,
        }
    }

    /// The packet that asks for what is missing; see [`Assembly::ask`].
    pub(crate) fn ask(&mut self) -> Option<(u16, Vec<u8>)> {
        self.activation.ask()
    }
}
