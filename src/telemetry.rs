//! Logs and metrics. Logs are text on a terminal and JSON otherwise; metrics use the Prometheus text format.
//! Neither contains keys or tokens, only ids, key hints and routes.
//!
//! A thread of its own writes the log, several lines at a time, so that no request waits for the reader of standard
//! error or pays for a system call. If the reader stops reading, lines are lost once `QUEUED_LINES` wait, but no
//! warning and no error: these are then written by the thread that logs them.

use std::io::{self, BufWriter, IsTerminal, Stderr, Write};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::{MakeWriter, format::JsonFields};
use tracing_subscriber::{EnvFilter, Registry, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

use self::json::JsonLines;
use crate::config::{Config, LogFormat};

mod json;

/// Bucket bounds of latency histograms, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// How many lines may wait to be written.
const QUEUED_LINES: usize = 65_536;

/// How long lines are collected before they are written.
const INTERVAL: Duration = Duration::from_millis(10);

/// Creates a metrics recorder. The binary installs it globally, a test for its own threads.
pub fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(seconds, &BUCKETS)?.build_recorder())
}

/// The log of the process. Writes what is left when it is dropped.
#[must_use]
pub struct Log {
    _writer: WorkerGuard,
}

/// Starts logging to standard error, until the result is dropped.
pub fn log(config: &Config) -> Log {
    let json = match config.log.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // More verbose levels of these libraries may log the content of requests.
    let library_levels = "serenity=warn,poise=warn,sqlx=warn,sea_orm=warn,apalis=error,hyper=warn,rustls=warn";
    let requested = EnvFilter::new(&config.log.filter);
    let filter = match requested.max_level_hint() {
        Some(LevelFilter::ERROR | LevelFilter::OFF) => requested,
        _ => EnvFilter::new(format!("{},{library_levels}", config.log.filter)),
    };
    let output = Collected(BufWriter::with_capacity(64 * 1024, io::stderr()));
    let queue = NonBlockingBuilder::default().buffered_lines_limit(QUEUED_LINES).thread_name("log");
    let (queue, writer) = queue.finish(output);
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines(queue));
    let registry = Registry::default().with(filter);
    if json {
        registry.with(lines.fmt_fields(JsonFields::new()).event_format(JsonLines)).init();
    } else {
        registry.with(lines.with_target(false)).init();
    }
    Log { _writer: writer }
}

/// Standard error, as the thread of the log uses it: lines that arrive within [`INTERVAL`] are one system call, and wake
/// the thread once.
struct Collected(BufWriter<Stderr>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        std::thread::sleep(INTERVAL);
        Ok(())
    }
}

/// Makes a writer for each line.
struct Lines(NonBlocking);

struct Line {
    queue: NonBlocking,
    is_important: bool,
}

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { queue: self.0.clone(), is_important: true }
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line {
        Line { queue: self.0.clone(), is_important: *metadata.level() <= Level::WARN }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lost = self.queue.error_counter();
        let before = lost.dropped_lines();
        let written = self.queue.write(bytes)?;
        if self.is_important && lost.dropped_lines() != before {
            io::stderr().write_all(bytes)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
