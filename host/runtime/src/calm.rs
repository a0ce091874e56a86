//! How soon after one placement devices may give reason for another.

use std::time::Duration;

use tokio::time::Instant;

/// The time to the next placement: at first, and at most.
const SHORTEST: Duration = Duration::from_secs(4);
const LONGEST: Duration = Duration::from_secs(64);

/// Loading what a placement moves takes the time of those that are to be fast, and so looks like another reason for a placement. The
/// first change is followed at once, and each that comes soon after has to wait twice as long as the one before.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    /// When the last change is followed, and how long after it the next one is.
    last: Option<(Instant, Duration)>,
    /// When to follow a change that has been seen.
    due: Option<Instant>,
}

impl Calm {
    /// A device is not what it was.
    pub(crate) fn disturb(&mut self, now: Instant) {
        if self.due.is_some() {
            return;
        }
        let (due, wait) = match self.last {
            // It was calm for long.
            Some((last, wait)) if now < last + 2 * wait => {
                (now.max(last + wait), (2 * wait).min(LONGEST))
            }
            _ => (now, SHORTEST),
        };
        self.last = Some((due, wait));
        self.due = Some(due);
    }

    /// What was followed last was better not: the next change has to wait for long.
    pub(crate) fn regret(&mut self, now: Instant) {
        let wait = self.last.map_or(SHORTEST, |(_, wait)| wait);
        self.last = Some((now, (4 * wait).min(LONGEST)));
        self.due = None;
    }

    /// When to follow what has changed.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It is followed.
    pub(crate) fn follow(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_followed_at_once_and_the_next_ever_later() {
        let start = Instant::now();
        let mut calm = Calm::default();
        let mut follow = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            calm.disturb(now);
            // What is seen meanwhile makes no difference.
            calm.disturb(now + Duration::from_secs(1));
            let due = calm.due().unwrap();
            calm.follow();
            assert_eq!(calm.due(), None);
            (due - start).as_secs()
        };
        assert_eq!(follow(10), 10);
        assert_eq!(follow(11), 14);
        assert_eq!(follow(15), 22);
        assert_eq!(follow(30), 38);
        assert_eq!(follow(69), 70, "twice as long again");
        assert_eq!(follow(500), 500, "it was calm for long");
        assert_eq!(follow(501), 504);
        calm.regret(start + Duration::from_secs(506));
        calm.disturb(start + Duration::from_secs(507));
        assert_eq!(calm.due().unwrap() - start, Duration::from_secs(506 + 32));
    }
}
