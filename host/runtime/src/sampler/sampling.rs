use serde::{Deserialize, Serialize};

/// How the next token is chosen from the logits. By default the likeliest always is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 takes the likeliest token always (greedy); 1 samples from the model's own distribution.
    pub temperature: f32,
    /// Sample from this many likeliest tokens only; 0 means all.
    pub top_k: usize,
    /// Sample from the fewest likeliest tokens that together have this probability; 1 means all.
    pub top_p: f32,
    /// Sample only from tokens at least this much as probable as the likeliest; 0 means all.
    pub min_p: f32,
    /// Divides the logit of a token in the penalty window if it is positive, multiplies it if it is negative; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken off the logit of a token in the penalty window once.
    pub presence_penalty: f32,
    /// Taken off the logit of a token in the penalty window as often as it is there.
    pub frequency_penalty: f32,
    /// Tokens that penalties look back on, the prompt's among them; 0 means all.
    pub penalty_window: usize,
    /// Seed of the random numbers: the same seed, prompt and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            seed: 0,
        }
    }
}

/// A sampling parameter that cannot be what it is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}; it must be {range}")]
pub struct OutOfRange {
    /// Its name in [`Sampling`].
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// What it may be.
    pub range: &'static str,
}

impl Sampling {
    /// Checks that every parameter is in its range.
    ///
    /// # Errors
    ///
    /// The first that is not.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let between = |low: f32, high: f32| move |v: f32| (low..=high).contains(&v);
        let above_0 = |high: f32| move |v: f32| v > 0.0 && v <= high;
        let check = |name, value, range, holds: &dyn Fn(f32) -> bool| {
            if holds(value) {
                Ok(())
            } else {
                Err(OutOfRange { name, value, range })
            }
        };
        let penalty = "a number from -10 to 10, where 0 changes nothing";
        check(
            "temperature",
            self.temperature,
            "a number from 0 to 100; 0.8 is a usual one",
            &between(0.0, 100.0),
        )?;
        check(
            "top_p",
            self.top_p,
            "a number above 0, and 1 at most",
            &above_0(1.0),
        )?;
        check(
            "min_p",
            self.min_p,
            "a number from 0 to 1",
            &between(0.0, 1.0),
        )?;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            "a number above 0, and 10 at most, where 1 changes nothing",
            &above_0(10.0),
        )?;
        check(
            "presence_penalty",
            self.presence_penalty,
            penalty,
            &between(-10.0, 10.0),
        )?;
        check(
            "frequency_penalty",
            self.frequency_penalty,
            penalty,
            &between(-10.0, 10.0),
        )
    }
}
