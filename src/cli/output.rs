//! What a command prints: text for people or, with `--json`, JSON for programs.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

/// The result of a command.
pub(super) struct Output {
    json: Value,
    text: String,
    /// Printed to standard error with the text, because a program that reads the text must not get it.
    note: String,
    code: ExitCode,
}

impl Output {
    /// The same facts for programs and for people.
    pub(super) fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into(), note: String::new(), code: ExitCode::SUCCESS }
    }

    /// A text that is the same for both, such as a script.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::new(Value::Null, text)
    }

    /// Rows of JSON objects. People see a table of these members, each with its heading.
    pub(super) fn table(columns: &[(&str, &str)], rows: Vec<Value>, if_empty: &str) -> Self {
        if rows.is_empty() {
            return Self::new(Value::Array(rows), if_empty);
        }
        let headings = columns.iter().map(|(_, heading)| (*heading).to_owned()).collect();
        let cells = |row: &Value| columns.iter().map(|(member, _)| cell(&row[*member])).collect();
        let lines: Vec<Vec<String>> = std::iter::once(headings).chain(rows.iter().map(cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let pad = |(cell, width): (&String, &usize)| format!("{cell:<width$}");
        let line = |cells: &Vec<String>| cells.iter().zip(&widths).map(pad).collect::<Vec<_>>().join("  ");
        let text: Vec<String> = lines.iter().map(|cells| line(cells).trim_end().to_owned()).collect();
        Self::new(Value::Array(rows), text.join("\n"))
    }

    pub(super) fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    pub(super) fn with_exit_code(self, code: ExitCode) -> Self {
        Self { code, ..self }
    }

    /// Prints the result. Every command prints here, once.
    pub(super) fn print(self, as_json: bool) -> Result<ExitCode> {
        let (text, note) = match &self.json {
            json if as_json && !json.is_null() => (serde_json::to_string_pretty(json)?, String::new()),
            _ => (self.text, self.note),
        };
        let print = |mut stream: Box<dyn Write>, text: &str| match text {
            "" => Ok(()),
            text => writeln!(stream, "{text}").and_then(|()| stream.flush()),
        };
        match print(Box::new(io::stderr()), &note).and_then(|()| print(Box::new(io::stdout()), &text)) {
            // The reader, for example `head`, has closed the pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(self.code),
            printed => Ok(printed.map(|()| self.code)?),
        }
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
