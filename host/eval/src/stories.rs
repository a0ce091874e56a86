//! Short stories in which something is lost and found again: what the default model was trained to write.
//!
//! A name, a thing and a place come up again and again, so how a story goes on is right or wrong at many points. The
//! generator that wrote the default model's training text had this grammar; from the same choices both make the same story.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::cloze::Gap;

const NAMES: [&str; 24] = [
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jack", "Kira", "Leo",
    "Mia", "Noah", "Olga", "Pia", "Ravi", "Sue", "Tom", "Uma", "Vera", "Will", "Yuki", "Zoe",
];
const ANIMALS: [&str; 16] = [
    "llama", "fox", "owl", "bear", "rabbit", "hedgehog", "mouse", "otter", "crow", "goat", "duck",
    "turtle", "cat", "dog", "pony", "squirrel",
];
const NATURES: [&str; 12] = [
    "little", "brave", "shy", "clever", "sleepy", "cheerful", "curious", "gentle", "hungry",
    "quiet", "young", "old",
];
const PLACES: [&str; 14] = [
    "the forest",
    "the river",
    "the hill",
    "the old barn",
    "the market",
    "the garden",
    "the beach",
    "the village",
    "the mountain",
    "the lake",
    "the bakery",
    "the school",
    "the meadow",
    "the harbor",
];
const THINGS: [[&str; 2]; 14] = [
    ["red", "ball"],
    ["silver", "key"],
    ["warm", "scarf"],
    ["blue", "kite"],
    ["wooden", "boat"],
    ["golden", "bell"],
    ["small", "lantern"],
    ["green", "hat"],
    ["soft", "blanket"],
    ["tin", "drum"],
    ["paper", "crown"],
    ["glass", "marble"],
    ["brass", "whistle"],
    ["yellow", "umbrella"],
];
const SPOTS: [&str; 10] = [
    "under a rock",
    "behind a tree",
    "inside a basket",
    "on top of a wall",
    "beside the well",
    "in a hollow log",
    "below the bridge",
    "near the gate",
    "between two stones",
    "in the tall grass",
];
const FOODS: [&str; 10] = [
    "bread",
    "apples",
    "soup",
    "honey cake",
    "berries",
    "cheese",
    "pancakes",
    "warm milk",
    "carrots",
    "plums",
];
const WEATHER: [[&str; 2]; 6] = [
    ["sunny", "the sun was bright"],
    ["rainy", "the rain fell softly"],
    ["windy", "the wind blew hard"],
    ["snowy", "the snow was deep"],
    ["foggy", "the fog was thick"],
    ["warm", "the air was warm"],
];
const FEELINGS: [[&str; 2]; 3] = [
    ["sad", "cried"],
    ["worried", "frowned"],
    ["upset", "sighed"],
];
const JOYS: [&str; 5] = ["happy", "glad", "proud", "very happy", "full of joy"];
const LESSONS: [&str; 7] = [
    "It is good to help a friend.",
    "Friends look after each other.",
    "A kind word makes every day better.",
    "It is easier to find things together.",
    "Being patient is better than being fast.",
    "Sharing makes food taste better.",
    "It is brave to ask for help.",
];

/// What comes before a gap, so that there is something to know the answer from.
const GIVEN_BYTES: usize = 200;

/// So many gaps, always the same for a seed.
#[must_use]
pub fn gaps(count: usize, seed: u64) -> Vec<Gap> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut choices = Choices(|below| random.random_range(0..below));
    (0..count).map(|_| choices.gap()).collect()
}

/// Where a story's choices come from: a number below the one given.
struct Choices<F>(F);

impl<F: FnMut(usize) -> usize> Choices<F> {
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[(self.0)(of.len())].clone()
    }

    fn two<T: Clone>(&mut self, of: &[T]) -> [T; 2] {
        let first = (self.0)(of.len());
        let second = (self.0)(of.len() - 1);
        [first, second + usize::from(second >= first)].map(|index| of[index].clone())
    }

    fn story(&mut self) -> String {
        let [a, b] = self.two(&NAMES);
        let (ka, kb) = (self.one(&ANIMALS), self.one(&ANIMALS));
        let [nature, nature_b] = self.two(&NATURES);
        let [home, away] = self.two(&PLACES);
        let [thing, other] = self.two(&THINGS).map(|words| words.join(" "));
        let spot = self.one(&SPOTS);
        let food = self.one(&FOODS);
        let [weather, it_was] = self.one(&WEATHER);
        let [sad, cried] = self.one(&FEELINGS);
        let joy = self.one(&JOYS);
        let mut sentences = vec![
            self.one(&[
                format!("Once upon a time there was a {nature} {ka} named {a}. {a} lived near {home}."),
                format!("There once was a {nature} {ka} who lived by {home}. The {ka} was called {a}."),
                format!("{a} was a {nature} {ka}. Every morning {a} walked to {home}."),
            ]),
            self.one(&[
                format!("{a} had a {thing}. {a} loved the {thing} more than anything."),
                format!("The best thing {a} owned was a {thing}."),
                format!("One day {a} got a {thing} as a gift."),
            ]),
            self.one(&[
                format!("One {weather} day, {a} took the {thing} to {away}. T{}.", &it_was[1..]),
                format!("It was a {weather} day and {it_was}. {a} went to {away} with the {thing}."),
            ]),
            self.one(&[
                format!("But when {a} came home, the {thing} was gone! {a} was {sad} and {cried}."),
                format!("Then {a} looked down and the {thing} was not there. {a} felt {sad} and {cried}."),
                format!("On the way back {a} lost the {thing}. \"Where is my {thing}?\" {a} {cried}."),
            ]),
            self.one(&[
                format!("A {nature_b} {kb} named {b} came by. \"Why are you {sad}, {a}?\" asked {b}."),
                format!("{a} met {b}, a {nature_b} {kb}. \"What is wrong?\" asked {b}."),
                format!("{b} the {kb} heard {a}. \"Can I help you, {a}?\" said {b}."),
            ]),
            self.one(&[
                format!("\"I lost my {thing},\" said {a}. \"I had it at {away}.\""),
                format!("{a} said, \"My {thing} is lost. I last saw it at {away}.\""),
            ]),
            self.one(&[
                format!("\"Let us look together,\" said {b}. So {a} and {b} went to {away}."),
                format!("{b} smiled. \"Two can look better than one.\" They walked to {away}."),
            ]),
        ];
        if (self.0)(2) == 0 {
            sentences.push(self.one(&[
                format!("First they found a {other}, but it was not the {thing}."),
                format!("{b} found a {other}. \"That is not mine,\" said {a}."),
            ]));
        }
        sentences.extend([
            self.one(&[
                format!("They looked and looked. At last {b} saw the {thing} {spot}!"),
                format!("After a while {a} looked {spot}. There was the {thing}!"),
            ]),
            self.one(&[
                format!("\"Thank you, {b}!\" said {a}. {a} was {joy}."),
                format!("{a} hugged {b}. \"You found my {thing}!\" {a} was {joy}."),
            ]),
            self.one(&[
                format!("They went back to {home} and ate {food} together."),
                format!("That evening {a} and {b} shared {food} near {home}."),
            ]),
            self.one(&LESSONS).to_owned(),
        ]);
        sentences.join(" ")
    }

    /// A story up to the last mention of its thing, of which the second word is the answer.
    fn gap(&mut self) -> Gap {
        loop {
            let text = self.story();
            let mut things = THINGS.iter().map(|words| (words, words.join(" ")));
            // Where this is a story's other thing, it is mentioned just once.
            let mentioned = things.find(|(_, thing)| text.contains(thing.as_str()));
            let Some(([adjective, answer], thing)) = mentioned else {
                continue;
            };
            let mentions: Vec<usize> = text.match_indices(&thing).map(|(at, _)| at).collect();
            if let [_, _, .., last] = mentions[..]
                && last > GIVEN_BYTES
            {
                return Gap {
                    given: text[..last + adjective.len()].to_owned(),
                    answer: (*answer).to_owned(),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stories and gaps that the model's own generator made of the same choices: see the data's README.
    const WRITTEN: &str = include_str!("../tests/data/stories.txt");

    #[test]
    fn the_same_choices_make_the_same_stories_and_gaps() {
        let mut state = 1u32;
        let mut choices = Choices(|below: usize| {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            (state >> 16) as usize % below
        });
        let mut compared = 0;
        for written in WRITTEN.lines() {
            match written.split_once(" | ") {
                None => assert_eq!(choices.story(), written),
                Some((given, answer)) => {
                    let gap = choices.gap();
                    assert_eq!((gap.given.as_str(), gap.answer.as_str()), (given, answer));
                }
            }
            compared += 1;
        }
        assert_eq!(compared, 40);
    }

    #[test]
    fn a_seed_always_makes_the_same_gaps_and_the_answer_was_said_before() {
        assert_eq!(gaps(50, 3), gaps(50, 3));
        assert_ne!(gaps(50, 3), gaps(50, 4));
        for gap in gaps(200, 0) {
            let adjective = gap.given.rsplit(' ').next().unwrap();
            let adjective = adjective.trim_start_matches('"');
            let thing = format!("{adjective} {}", gap.answer);
            assert!(gap.given.matches(&thing).count() >= 2, "{gap:?}");
        }
    }
}
