//! Logs: one line on standard error for each thing an operator would want to know, with branch and duration.
//!
//! `OFFSHOOT_LOG` takes a filter (`info`, `debug`, `offshoot::proxy=debug` …), `OFFSHOOT_LOG_FORMAT=json` one JSON object a line.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. Called once, by `main`'s command.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_env("OFFSHOOT_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::env::var("OFFSHOOT_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
