//! The log.

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::{reader::Reader, setting::setting};

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of a `tracing` `EnvFilter`.
    pub filter: String,
    /// Format of log lines.
    pub format: LogFormat,
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

impl LogConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            filter: setting("DCA_LOG")
                .about("What is logged.")
                .expects("a level, or target=level pairs, separated by commas, for example info,dca_auth=debug")
                .default("info")
                .read(r, filter),
            format: setting("DCA_LOG_FORMAT")
                .about("Format of log lines. auto is text on a terminal and JSON otherwise.")
                .expects("auto, text or json")
                .default("auto")
                .read(r, format),
        }
    }
}

fn filter(value: &str) -> Option<String> {
    // `EnvFilter` would read a misspelled level as a target and disable all other logs.
    let is_level = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    let has_valid_levels = value.split(',').all(|part| part.contains(['=', '[']) || is_level(part));
    let is_valid = has_valid_levels && EnvFilter::builder().parse(value).is_ok();
    is_valid.then(|| value.to_owned())
}

fn format(value: &str) -> Option<LogFormat> {
    match value {
        "auto" => Some(LogFormat::Auto),
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}
