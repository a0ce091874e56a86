//! Conversations, written as a model was trained to read them.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::civil::{Date, date};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::error::PackageError;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// What.
    pub content: String,
}

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever says how the model is to behave.
    System,
    /// Whoever asks.
    User,
    /// The model.
    Assistant,
}

/// The texts of the tokens that chat templates refer to; empty where a model has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatTokens {
    /// Begins a text; `bos_token` in a template.
    pub bos: String,
    /// Ends a text or a turn; `eos_token` in a template.
    pub eos: String,
}

/// What turns a conversation into the text that a model continues: a Jinja template, as Hugging Face publishes them.
///
/// It sees `messages`, `add_generation_prompt`, `bos_token` and `eos_token`; `tools` and `documents` are none. For
/// `strftime_now` it is always 26 July 2024, the day that Llama's templates take where there is no clock, so that the
/// same conversation is always the same text.
///
/// A template is a program that comes with a model, so its length, its steps and the text it writes are limited. It has
/// no access to files.
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    tokens: ChatTokens,
}

impl ChatTemplate {
    /// Published templates have up to 30 KB.
    const MAX_TEMPLATE: usize = 1 << 18;
    /// A message takes about a hundred.
    const MAX_STEPS: u64 = 1_000_000;
    /// More than fits any context.
    const MAX_TEXT: usize = 1 << 26;
    const TODAY: Date = date(2024, 7, 26);
    /// What the template is called among templates: there is but one.
    const NAME: &str = "chat";

    /// Reads a template. `path` is for errors only.
    ///
    /// # Errors
    ///
    /// [`PackageError::ChatTemplate`]: it is too long or not Jinja.
    pub fn new(path: &Path, source: String, tokens: ChatTokens) -> Result<Self, PackageError> {
        let bytes = source.len();
        if bytes > Self::MAX_TEMPLATE {
            return Err(PackageError::ChatTemplate {
                path: path.into(),
                line: 1,
                reason: format!(
                    "{bytes} bytes are too long for a chat template; at most {} are taken",
                    Self::MAX_TEMPLATE
                ),
            });
        }
        let mut environment = Environment::new();
        // As Hugging Face sets it up.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| failure(path, &error))?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.set_fuel(Some(Self::MAX_STEPS));
        environment
            .add_template_owned(Self::NAME, source)
            .map_err(|error| failure(path, &error))?;
        Ok(Self {
            environment,
            path: path.into(),
            tokens,
        })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the model's answer begins.
    ///
    /// # Errors
    ///
    /// [`PackageError::ChatTemplate`]: it fails, exceeds a limit or refuses the conversation, as some do with system
    /// messages.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, PackageError> {
        let context = context! {
            messages => Serde(messages),
            add_generation_prompt,
            bos_token => &self.tokens.bos,
            eos_token => &self.tokens.eos,
            tools => (),
            documents => (),
        };
        let mut text = Bounded(Vec::new());
        self.environment
            .get_template(Self::NAME)
            .and_then(|template| template.render_captured_to(context, &mut text).map(drop))
            .map_err(|error| failure(&self.path, &error))?;
        Ok(String::from_utf8_lossy(&text.0).into_owned())
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("path", &self.path)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

/// Text that does not grow beyond bounds.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > ChatTemplate::MAX_TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How templates refuse a conversation.
fn raise_exception(message: &str) -> Result<Value, Error> {
    let refusal = format!("the template refuses this conversation: {message}");
    Err(Error::new(ErrorKind::InvalidOperation, refusal))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let now = ChatTemplate::TODAY.at(0, 0, 0, 0);
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// Unlike the library's own filter, and like Hugging Face's, this makes no JSON for web pages.
fn to_json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn failure(path: &Path, error: &Error) -> PackageError {
    let reason = match error.kind() {
        ErrorKind::OutOfFuel => {
            format!(
                "the template takes more than {} steps",
                ChatTemplate::MAX_STEPS
            )
        }
        ErrorKind::WriteFailure => {
            format!(
                "the template writes more than {} bytes",
                ChatTemplate::MAX_TEXT
            )
        }
        // Its details are whole sentences.
        ErrorKind::InvalidOperation => error.detail().unwrap_or("invalid operation").to_owned(),
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    PackageError::ChatTemplate {
        path: path.into(),
        line: error.line().unwrap_or(1),
        reason,
    }
}
