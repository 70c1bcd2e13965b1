//! Text for people: what goes to a terminal and nowhere else.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Returns `text` dimmed where standard error is a terminal that wants colours, and as it is elsewhere.
pub(crate) fn dim(text: &str) -> String {
    if std::io::stderr().is_terminal() && !kr_boot::no_color() {
        format!("\x1b[2m{text}\x1b[0m")
    } else {
        text.into()
    }
}

/// Writes a line for people to standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", dim(text));
}

/// Returns a progress bar on standard error, hidden where that is no terminal.
pub(crate) fn progress_bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Writes a duration as a person says it: `85 ms`, `1.24 s`.
pub(crate) fn duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

/// Writes a number of bytes as a person says it: `512 B`, `98.4 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}
