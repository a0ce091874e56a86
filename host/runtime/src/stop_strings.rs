/// Watches a text that comes in pieces for strings that end it, and holds back what may be the beginning of one.
#[derive(Debug)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    /// Text that has come and was not given out.
    held: String,
}

impl StopStrings {
    /// None of `stops` may be empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes a piece of text, and gives what may be shown, and whether a stop string has come. It is not in what may be shown.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| Some((self.held.find(stop.as_str())?, stop.len())));
        // The one that is complete first, so that it does not matter how the text was cut into pieces.
        if let Some((start, _)) = found.min_by_key(|(start, length)| (start + length, *start)) {
            self.held.truncate(start);
            return (self.rest(), true);
        }
        let begins = |at: &usize| self.stops.iter().any(|s| s.starts_with(&self.held[*at..]));
        let mut starts = self.held.char_indices().map(|(at, _)| at);
        let keep = starts.find(begins).unwrap_or(self.held.len());
        let held = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, held), false)
    }

    /// What was held back, when nothing more comes.
    pub(crate) fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(stops: &[&str]) -> StopStrings {
        StopStrings::new(stops.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_may_be_a_beginning_is_held_back() {
        let mut text = stops(&["\n\n", "END"]);
        assert_eq!(text.push("one\n"), ("one".into(), false));
        assert_eq!(text.push("two E"), ("\ntwo ".into(), false));
        assert_eq!(text.push("N"), (String::new(), false));
        assert_eq!(text.push("ERE"), ("ENER".into(), false));
        assert_eq!(text.push("ND more"), (String::new(), true));
        assert_eq!(text.rest(), "");
        let mut text = stops(&["END"]);
        assert_eq!(text.push("the EN"), ("the ".into(), false));
        assert_eq!(text.rest(), "EN");
    }

    #[test]
    fn characters_stay_whole() {
        let mut text = stops(&["éé", "🦙!"]);
        assert_eq!(text.push("é"), (String::new(), false));
        assert_eq!(text.push("è🦙"), ("éè".into(), false));
        assert_eq!(text.push("?"), ("🦙?".into(), false));
    }

    proptest! {
        /// However a text is cut, what is shown is the text before the stop string that is complete first.
        #[test]
        fn cutting_does_not_matter(
            pieces in prop::collection::vec("[abé]{0,3}", 0..12),
            wanted in prop::collection::vec("[abé]{1,4}", 0..4),
        ) {
            let text = pieces.concat();
            let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
            let end = ends.into_iter().find(|end| wanted.iter().any(|w| text[..*end].ends_with(w)));
            let expected = end.map_or(text.as_str(), |end| {
                let starts = wanted.iter().filter(|w| text[..end].ends_with(*w)).map(|w| end - w.len());
                &text[..starts.min().unwrap()]
            });
            let mut stops = StopStrings::new(wanted.clone());
            let (mut shown, mut stopped) = (String::new(), false);
            for piece in &pieces {
                let (text, stop) = stops.push(piece);
                shown += &text;
                stopped = stop;
                if stop {
                    break;
                }
                prop_assert!(expected.starts_with(&shown));
            }
            shown += &stops.rest();
            prop_assert_eq!(shown, expected);
            prop_assert_eq!(stopped, end.is_some());
        }
    }
}
