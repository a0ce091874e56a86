//! Options of a generation, for every command that generates.

use clap::Args;
use clap::error::ErrorKind;
use halo_runtime::{GenerationError, Request, Sampling};

use crate::options::{Global, at_least_one};

const SAMPLING: &str = "Sampling";

/// What to generate, and how its tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerationOptions {
    /// Tokens to generate at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 128)]
    max_tokens: usize,

    /// Tokens that prompt and answer may have together [default: as many as the model was made for]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    context: Option<usize>,

    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Go on after the model's end of text
    #[arg(long)]
    ignore_eos: bool,

    /// With --json, tell each token's log-probability, and those of the N likeliest
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,

    /// 0 takes the likeliest token always; 1 samples as the model says
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    temperature: f32,

    /// Sample from the K likeliest tokens; 0 means all
    #[arg(long, value_name = "K", default_value_t = 0, help_heading = SAMPLING)]
    top_k: usize,

    /// Sample from the fewest likeliest tokens that together have probability P
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    top_p: f32,

    /// Sample from tokens at least P times as probable as the likeliest; 0 means all
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    min_p: f32,

    /// Divide the logits of tokens that were there by R, or multiply them where they are negative
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    repetition_penalty: f32,

    /// Subtract from the logits of tokens that were there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    presence_penalty: f32,

    /// Subtract from the logits of tokens for each time that they were there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, help_heading = SAMPLING)]
    frequency_penalty: f32,

    /// Penalties look at the last N tokens of prompt and answer; 0 means all
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = SAMPLING)]
    penalty_window: usize,

    /// Seed of the sampling; the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = SAMPLING)]
    seed: u64,
}

impl GenerationOptions {
    /// The request for a prompt. Ends the process as clap does where an option is not what it may be.
    ///
    /// # Errors
    ///
    /// The prompt is empty.
    pub(crate) fn request(
        &self,
        command: &str,
        global: &Global,
        prompt: String,
    ) -> Result<Request, GenerationError> {
        let request = Request {
            prompt,
            max_tokens: self.max_tokens,
            context: self.context,
            stop: self.stop.clone(),
            logprobs: self.logprobs,
            ignore_eos: self.ignore_eos,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                presence_penalty: self.presence_penalty,
                frequency_penalty: self.frequency_penalty,
                penalty_window: self.penalty_window,
                seed: self.seed,
            },
        };
        let wrong = |option: &str, problem: &dyn std::fmt::Display| -> ! {
            let problem = format!("--{} {problem}", option.replace('_', "-"));
            crate::usage_error(command, ErrorKind::ValueValidation, &problem)
        };
        if self.logprobs.is_some() && !global.json {
            wrong("logprobs", &"needs --json, which prints them");
        }
        match request.check() {
            Ok(()) => Ok(request),
            Err(GenerationError::Sampling(error)) => wrong(
                error.name,
                &format_args!("is {}; it must be {}", error.value, error.range),
            ),
            Err(GenerationError::EmptyStop) => {
                wrong("stop", &"is empty, and would end the text before it begins")
            }
            Err(error) => Err(error),
        }
    }
}
