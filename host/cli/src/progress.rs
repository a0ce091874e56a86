use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// A bar for something that takes more than a moment. Invisible when programs read the output or nobody watches.
pub(crate) fn bar(output: &Output, what: &str, total: u64) -> ProgressBar {
    if output.json() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total).with_message(what.to_owned());
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {wide_bar:.cyan/dim} {percent:>3} % {eta}")
    {
        bar.set_style(style);
    }
    bar
}

/// A spinner for something whose length is not known.
pub(crate) fn spinner(output: &Output, what: &str) -> ProgressBar {
    if output.json() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}
