use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use halo_models::Role;
use owo_colors::OwoColorize;

use crate::conversation::Conversation;
use crate::generation::GenerationOptions;
use crate::options::{Global, read_text};
use crate::output::Output;
use crate::session::{Event, SessionOptions, summary};
use crate::trace::TraceFile;

/// Continue a text, on this machine or at the head of a cluster
///
/// Without --cluster the whole model runs on this machine. With it, this machine leads: it does the attention, keeps the KV
/// cache, and spreads the feed-forward over the workers that it finds. A worker may be lost at any time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  halo run \"Once upon a time\"
  halo run --cluster home --max-tokens 200 \"Once upon a time\"
  echo \"In the beginning\" | halo run --temperature 0.8 --seed 7
  halo run --cluster home --trace trace.json \"Once upon a time\"
  halo run --stop \"The end\" --json --logprobs 3 \"Once upon a time\"
  halo run --model tinyllama --chat \"Why is the sky blue?\"")]
pub(crate) struct Run {
    /// The text to continue; read from standard input if it is missing or `-`
    prompt: Option<String>,

    /// Ask a chat model: the text is a message to answer
    #[arg(long)]
    chat: bool,

    /// Write what each node did when to this file, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    #[command(flatten)]
    session: SessionOptions,

    #[command(flatten)]
    generation: GenerationOptions,
}

impl Run {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let config = self.session.config("run", global)?;
        // What is wrong with it is said before a model is loaded or workers are waited for.
        let mut request = self.generation.request("run", global, self.prompt()?)?;
        let package = self.session.package(&config)?;
        if self.chat {
            let mut conversation = Conversation::new(&package)?;
            conversation.add(Role::User, request.prompt);
            request.prompt = conversation.prompt()?;
        }
        self.session.check(&config, &package, &request)?;
        let trace = self.trace.map(TraceFile::create).transpose()?;
        let mut session = self.session.start(config, package, output).await?;
        if !self.chat {
            // A pipe that is closed ends the generation at the first token.
            let _ = output.piece(&request.prompt);
        }
        if trace.is_some() {
            session.record().await;
        }
        let report = session.generate(&request)?;
        let recording = match trace {
            Some(trace) => Some(session.trace(trace).await?),
            None => None,
        };
        session.close().await;
        if output.json() {
            output.line(&Event::Done(Box::new(report)))?;
        } else {
            output.note(summary(&report).dimmed());
        }
        if let Some(recording) = recording {
            output.note(recording.dimmed());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn prompt(&self) -> Result<String> {
        let stdin = || read_text(&PathBuf::from("-"));
        match self.prompt.as_deref() {
            Some("-") => stdin(),
            Some(prompt) => Ok(prompt.to_owned()),
            None if std::io::stdin().is_terminal() => Ok(String::new()),
            None => Ok(stdin()?.trim_end_matches('\n').to_owned()),
        }
    }
}
