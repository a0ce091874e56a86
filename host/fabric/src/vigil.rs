//! What a node's silence means.
//!
//! Time is counted in heartbeats of ours, so that a node that was held up itself does not take the others for dead.

use std::time::Instant;

/// Heartbeats without a word after which a node whose connection has gone is dead: what ends a process closes its
/// connections, but those are closed as well when only the network between is disturbed. They follow one another more quickly.
const SILENT_IF_CUT: u32 = 6;

/// Heartbeats without a word after which a node is asked on the control plane. On a link that loses three packets of ten,
/// pings and answers to ours stay away for so long once in many hours.
const ASK_AFTER: u32 = 4;

/// Questions without an answer after which a node is dead that has never been heard: where much is lost, its links take a while to be made.
const QUESTIONS_IF_NEW: u32 = 3;

/// How it stands with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It has been heard, or has answered.
    Alive,
    /// Too early to say.
    Wait,
    /// It has been silent for long enough to be asked.
    Ask,
    /// It neither says nor answers anything.
    Silent,
}

/// The watch over one node.
#[derive(Debug, Default)]
pub(crate) struct Vigil {
    last_heard: Option<Instant>,
    /// Heartbeats since.
    quiet: u32,
    /// Heartbeats since, and since the connection to it has gone.
    quiet_and_cut: u32,
    asking: bool,
    /// Questions in a row that it has not answered.
    unanswered: u32,
    /// Whether it was there at the last heartbeat, and whether it had been heard.
    known: Option<bool>,
}

impl Vigil {
    /// A heartbeat has passed.
    pub(crate) fn tick(&mut self, last_heard: Option<Instant>) -> Finding {
        if self.hears(last_heard) {
            return Finding::Alive;
        }
        self.quiet = self.quiet.saturating_add(1);
        if self.quiet >= ASK_AFTER && !self.asking {
            self.asking = true;
            Finding::Ask
        } else {
            Finding::Wait
        }
    }

    /// Whether the node is new, or has been heard for the first time.
    pub(crate) fn is_news(&mut self, heard: bool) -> bool {
        self.known.replace(heard) < Some(heard)
    }

    /// A heartbeat of those has passed that go to a node while the connection to it has gone.
    pub(crate) fn tick_if_cut(&mut self, last_heard: Option<Instant>) -> Finding {
        if self.hears(last_heard) {
            return Finding::Alive;
        }
        self.quiet_and_cut = self.quiet_and_cut.saturating_add(1);
        if self.quiet_and_cut >= SILENT_IF_CUT {
            Finding::Silent
        } else {
            Finding::Wait
        }
    }

    fn hears(&mut self, last_heard: Option<Instant>) -> bool {
        let heard = last_heard > self.last_heard;
        if heard {
            (self.last_heard, self.quiet, self.quiet_and_cut) = (last_heard, 0, 0);
        }
        heard
    }

    /// The node has answered the question, or has not.
    pub(crate) fn answered(&mut self, answered: bool) -> Finding {
        self.asking = false;
        self.unanswered += 1;
        let enough = self.last_heard.is_some() || self.unanswered >= QUESTIONS_IF_NEW;
        if answered {
            (self.quiet, self.quiet_and_cut, self.unanswered) = (0, 0, 0);
            Finding::Alive
        } else if self.quiet >= ASK_AFTER && enough {
            Finding::Silent
        } else {
            Finding::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn silence_leads_to_a_question_and_no_answer_to_death() {
        let mut vigil = Vigil::default();
        let now = Instant::now();
        assert_eq!(vigil.tick(Some(now)), Finding::Alive);
        for _ in 1..ASK_AFTER {
            assert_eq!(vigil.tick(Some(now)), Finding::Wait);
        }
        assert_eq!(vigil.tick(Some(now)), Finding::Ask);
        assert_eq!(vigil.tick(Some(now)), Finding::Wait, "asked already");
        assert_eq!(vigil.answered(false), Finding::Silent);
        assert_eq!(vigil.tick(Some(now)), Finding::Ask, "asked again");
        let later = now + Duration::from_secs(1);
        assert_eq!(vigil.tick(Some(later)), Finding::Alive);
        assert_eq!(vigil.answered(false), Finding::Wait, "heard meanwhile");
    }

    #[test]
    fn who_has_never_been_heard_is_asked_more_often() {
        let mut vigil = Vigil::default();
        for _ in 1..QUESTIONS_IF_NEW {
            while vigil.tick(None) != Finding::Ask {}
            assert_eq!(vigil.answered(false), Finding::Wait);
        }
        while vigil.tick(None) != Finding::Ask {}
        assert_eq!(vigil.answered(false), Finding::Silent);
        while vigil.tick(None) != Finding::Ask {}
        assert_eq!(vigil.answered(true), Finding::Alive);
    }

    #[test]
    fn whoever_answers_is_alive_without_a_data_plane() {
        let mut vigil = Vigil::default();
        for _ in 0..10 {
            while vigil.tick(None) != Finding::Ask {}
            assert_eq!(vigil.answered(true), Finding::Alive);
        }
    }

    #[test]
    fn silence_is_enough_where_the_connection_is_cut() {
        let mut vigil = Vigil::default();
        let now = Instant::now();
        assert_eq!(vigil.tick_if_cut(Some(now)), Finding::Alive, "it is heard");
        for _ in 1..SILENT_IF_CUT {
            assert_eq!(vigil.tick_if_cut(Some(now)), Finding::Wait);
        }
        assert_eq!(vigil.tick_if_cut(Some(now)), Finding::Silent);
        let later = now + Duration::from_secs(1);
        assert_eq!(vigil.tick(Some(later)), Finding::Alive);
        assert_eq!(
            vigil.tick_if_cut(Some(later)),
            Finding::Wait,
            "it begins anew"
        );
    }
}
