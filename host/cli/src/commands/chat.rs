use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use halo_models::Role;
use halo_runtime::{Finish, Request};
use owo_colors::OwoColorize;
use serde_json::json;

use crate::conversation::Conversation;
use crate::generation::GenerationOptions;
use crate::options::Global;
use crate::output::Output;
use crate::session::{Event, Session, SessionOptions, summary};

/// One part in so many of the context is kept free for an answer that may be as long.
const PARTS: usize = 4;

/// Talk with a chat model, on this machine or at the head of a cluster
///
/// Every line is a message. Control-C ends an answer, and between answers the conversation; so does Control-D. When the
/// conversation no longer fits the model's context, its oldest messages are left out. The model must have a chat template,
/// which `halo model import` takes from the model's folder.
#[derive(Debug, Args)]
#[command(
    mut_arg("max_tokens", |option| option.default_value("1024")),
    after_help = "Examples:
  halo chat --model tinyllama
  halo chat --model tinyllama --cluster home --temperature 0.7
  echo \"Why is the sky blue?\" | halo chat --model tinyllama --system \"Answer in one sentence.\""
)]
pub(crate) struct Chat {
    /// Tell the model how to behave
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    session: SessionOptions,

    #[command(flatten)]
    generation: GenerationOptions,
}

impl Chat {
    pub(crate) async fn execute(self, global: &Global, output: &Output) -> Result<ExitCode> {
        let config = self.session.config("chat", global)?;
        let package = self.session.package(&config)?;
        let mut conversation = Conversation::new(&package)?;
        if let Some(system) = &self.system {
            conversation.add(Role::System, system.clone());
        }
        let context = package.shape().context;
        let mut session = self.session.start(config, package, output).await?;
        let mut forgotten = 0;
        while let Some(message) = next_message(output).await? {
            conversation.add(Role::User, message);
            let request = loop {
                let prompt = conversation.prompt()?;
                let request = self.generation.request("chat", global, prompt)?;
                if fits(&session, &request, context) {
                    break request;
                }
                let Some(messages) = conversation.forget_oldest() else {
                    break request;
                };
                forgotten += messages;
                tell_forgotten(forgotten, output)?;
            };
            session.check(&request)?;
            let report = session.generate(&request)?;
            conversation.add(Role::Assistant, report.text.clone());
            if report.finish == Finish::MaxTokens {
                output.note("the answer is cut off; --max-tokens lets it be longer".dimmed());
            }
            if global.verbose > 0 {
                output.note(summary(&report).dimmed());
            }
            if output.json() {
                output.line(&Event::Done(Box::new(report)))?;
            }
        }
        session.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether a prompt leaves room for an answer.
fn fits(session: &Session, request: &Request, context: usize) -> bool {
    let context = request.context.map_or(context, |most| most.min(context));
    let room = request.max_tokens.min(context / PARTS);
    (session.check(request)).is_ok_and(|tokens| tokens + room <= context)
}

fn tell_forgotten(messages: usize, output: &Output) -> Result<()> {
    if output.json() {
        return output.line(&json!({ "event": "forgotten", "messages": messages }));
    }
    let note = format!(
        "the conversation no longer fits the model's context; its first {messages} messages are left out"
    );
    output.note(note.dimmed());
    Ok(())
}

/// The next line that says something; none at the end, or when the user interrupts.
async fn next_message(output: &Output) -> Result<Option<String>> {
    loop {
        if io::stdin().is_terminal() && !output.json() {
            anstream::eprint!("{} ", ">".green().bold());
            io::stderr().flush()?;
        }
        let mut line = String::new();
        let reading = tokio::task::spawn_blocking(move || {
            io::stdin().read_line(&mut line).map(|bytes| (bytes, line))
        });
        let (bytes, line) = tokio::select! {
            read = reading => read?.context("cannot read standard input as UTF-8 text")?,
            _ = tokio::signal::ctrl_c() => return Ok(None),
        };
        match line.trim() {
            _ if bytes == 0 => return Ok(None),
            "" => {}
            message => return Ok(Some(message.to_owned())),
        }
    }
}
