//! Log lines in JSON, with the members that `tracing-subscriber` writes. Its own format builds a map for each line, and
//! parses the fields of the span again, which costs more than the rest of a request's log line.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// One JSON object per event: its time, level, fields and target, and the current span.
pub(super) struct JsonLines;

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for JsonLines {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        line.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut line)?;
        write!(line, "\",\"level\":\"{}\"", event.metadata().level())?;
        let mut fields = Fields { line: &mut line, target: None, result: Ok(()) };
        event.record(&mut fields);
        let Fields { target, result, .. } = fields;
        result?;
        line.write_str(",\"target\":")?;
        write_text(&mut line, target.as_deref().unwrap_or(event.metadata().target()))?;
        if let Some(span) = context.lookup_current() {
            line.write_str(",\"span\":{\"name\":")?;
            write_text(&mut line, span.name())?;
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>().and_then(|fields| fields.strip_prefix('{'));
            match fields {
                None | Some("}") => line.write_char('}')?,
                Some(fields) => write!(line, ",{fields}")?,
            }
        }
        line.write_str("}\n")
    }
}

/// Writes the fields of an event as members of an object.
struct Fields<'a, 'w> {
    line: &'a mut Writer<'w>,
    /// The target of an event that came through the `log` crate, whose own is the same for all.
    target: Option<String>,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            let name = field.name();
            let name = name.strip_prefix("r#").unwrap_or(name);
            self.result = write!(self.line, ",\"{name}\":").and_then(|()| value(self.line));
        }
    }
}

impl Visit for Fields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "log.target" => self.target = Some(value.to_owned()),
            name if name.starts_with("log.") => {}
            _ => self.member(field, |line| write_text(line, value)),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if !field.name().starts_with("log.") {
            self.member(field, |line| write!(line, "{value}"));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |line| write!(line, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has neither infinities nor NaN.
        self.member(field, |line| if value.is_finite() { write!(line, "{value}") } else { line.write_str("null") });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, |line| write_text(line, &format!("{value:?}")));
    }
}

fn write_text(line: &mut Writer<'_>, text: &str) -> fmt::Result {
    let needs_escapes = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    if text.bytes().any(needs_escapes) {
        return line.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?);
    }
    line.write_char('"')?;
    line.write_str(text)?;
    line.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing::{info, info_span, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_a_json_object_with_the_fields_of_the_event_and_its_span() {
        let output = Output::default();
        let writer = output.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone());
        let lines = lines.fmt_fields(JsonFields::new()).event_format(JsonLines).finish();
        tracing::subscriber::with_default(lines, || {
            info!(n = 1_u64, ratio = 0.5, is = true, text = "a \"b\"\n", ip = %"::1", r#type = "x", "done: {}", "\\");
            let _request = info_span!("request", request_id = "7").entered();
            warn!(nan = f64::NAN, below = -1, "inside");
            let _empty = info_span!("empty").entered();
            info!("nested");
        });
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
        let mut next = || {
            let mut line = lines.next().unwrap();
            let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
            line
        };
        let target = module_path!();
        assert_eq!(
            next(),
            json!({
                "level": "INFO", "message": "done: \\", "n": 1, "ratio": 0.5, "is": true, "text": "a \"b\"\n", "ip": "::1",
                "type": "x", "target": target,
            })
        );
        let span = json!({ "name": "request", "request_id": "7" });
        assert_eq!(
            next(),
            json!({ "level": "WARN", "message": "inside", "nan": null, "below": -1, "target": target, "span": span })
        );
        assert_eq!(
            next(),
            json!({ "level": "INFO", "message": "nested", "target": target, "span": { "name": "empty" } })
        );
    }
}
