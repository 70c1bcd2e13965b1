//! Log lines on standard error, each with its process's name: a router's and its workers' share one stream.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;

/// Returns the layer that writes the log lines of the process called `name` to `writer`.
pub(super) fn layer<S, W>(format: LogFormat, name: &str, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !terminal,
    };
    if json {
        let start = format!("{{\"process\":{},", serde_json::Value::from(name));
        let lines = lines.json().flatten_event(true).with_span_list(false);
        lines.map_event_format(|line| NamedObject { start, line }).boxed()
    } else {
        let start = format!("{name} ");
        let lines = lines.with_ansi(terminal && !crate::no_color());
        lines.map_event_format(|line| NamedLine { start, line }).boxed()
    }
}

/// A line after the process's name.
struct NamedLine<F> {
    start: String,
    line: F,
}

impl<S, N, F> FormatEvent<S, N> for NamedLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        to.write_str(&self.start)?;
        self.line.format_event(context, to, event)
    }
}

/// A JSON object whose first field is the process's name.
struct NamedObject<F> {
    start: String,
    line: F,
}

impl<S, N, F> FormatEvent<S, N> for NamedObject<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.line.format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(fields) => write!(to, "{}{fields}", self.start),
            None => to.write_str(&line),
        }
    }
}
