//! Lines for a person, on standard error. In colour where that is a terminal and `NO_COLOR` is not set.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal};

use clap::builder::styling::{AnsiColor, Style};

/// One step that begins or is done: its verb stands out, as in Cargo's own output.
pub(crate) fn step(verb: &str, what: impl Display) {
    line(verb, AnsiColor::Green, what);
}

/// Something that did not happen, or should be known.
pub(crate) fn warning(verb: &str, what: impl Display) {
    line(verb, AnsiColor::Yellow, what);
}

/// Something that failed.
pub(crate) fn failure(verb: &str, what: impl Display) {
    line(verb, AnsiColor::Red, what);
}

/// An error with its causes, as the last words of a command.
pub(crate) fn error(error: &anyhow::Error) {
    let style = style(AnsiColor::Red);
    eprintln!("{style}error{style:#}: {error:#}");
}

fn line(verb: &str, colour: AnsiColor, what: impl Display) {
    let style = style(colour);
    eprintln!("{style}{verb:>12}{style:#} {what}");
}

fn style(colour: AnsiColor) -> Style {
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || !io::stderr().is_terminal();
    if plain {
        Style::new()
    } else {
        colour.on_default().bold()
    }
}
