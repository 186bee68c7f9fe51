//! The log.

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::{parse::one_of, reader::settings};

settings! {
    /// The log.
    LogConfig {
        /// What is logged.
        filter: String = "DCA_LOG", or("info", filter),
            expects("a level, or target=level pairs, separated by commas, for example info,dca_auth=debug");
        /// Format of log lines. auto is text on a terminal and JSON otherwise.
        format: LogFormat = "DCA_LOG_FORMAT", or("auto", one_of(&FORMATS)), expects("auto, text or json");
    }
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

const FORMATS: [(&str, LogFormat); 3] =
    [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];

fn filter(value: &str) -> Option<String> {
    // `EnvFilter` would read a misspelled level as a target and disable all other logs.
    let is_level = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    let has_valid_levels = value.split(',').all(|part| part.contains(['=', '[']) || is_level(part));
    let is_valid = has_valid_levels && EnvFilter::builder().parse(value).is_ok();
    is_valid.then(|| value.to_owned())
}
