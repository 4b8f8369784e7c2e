//! Log lines: to stderr, for people or as JSON, one object a line. Fields of the spans a line was written in (the
//! request id among them) are part of the line.
//!
//! An error is logged once, where it is handled; ERROR means a person must look.

use std::io::IsTerminal as _;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

use crate::settings::{Log, LogFormat};

/// Sends everything traced in this process to stderr. Called once, first thing; later calls are refused by the
/// tracing library and leave the first in force.
pub fn init(log: &Log) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing::subscriber::set_global_default(subscriber(log, colour, std::io::stderr));
}

/// The subscriber itself, for tests that keep the lines.
pub fn subscriber<W>(log: &Log, colour: bool, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // Notices of the database ("already exists, skipping") are the library's talk with itself; the setting may ask
    // for them, since later directives win.
    let wanted = format!("sqlx::postgres::notice=warn,{}", log.level);
    let filter = EnvFilter::try_new(wanted).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = match log.format {
        LogFormat::Human => tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour).boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(writer)
            .boxed(),
    };
    Registry::default().with(filter).with(lines)
}

#[cfg(test)]
mod tests;
