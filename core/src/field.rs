//! What is wrong with a field of a request.

use std::fmt::Display;

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldFault {
    /// It is required.
    Missing,
    /// It is given more than once.
    Repeated,
    /// There is no such field.
    Unknown,
    /// It has another type or value; this is what the parser expects.
    Expected(String),
    /// It has another format.
    Invalid,
    /// The number is out of range.
    Range {
        /// The smallest number.
        min: i64,
        /// The largest number.
        max: i64,
    },
    /// The date is not in one of these years.
    Years {
        /// The first year.
        first: i32,
        /// The last year.
        last: i32,
    },
    /// There are more entries.
    TooMany {
        /// The largest number of entries.
        max: usize,
    },
    /// A name in it is not of the form `[a-z0-9][a-z0-9._-]{0,63}`.
    Name,
    /// Two of its entries have the same name.
    Duplicate,
    /// It is not a `SemVer` requirement.
    Requirement,
    /// It is allowed with this value of another field only.
    OnlyWith {
        /// The other field.
        field: &'static str,
        /// The value.
        value: &'static str,
    },
    /// Its value needs another field.
    Needs {
        /// The other field.
        field: &'static str,
    },
}

impl FieldFault {
    /// The invalid field of a parser's error, as a path such as `a.b`, and what is wrong with it; `None` if it is the whole
    /// text. Only those parts of the message are used that never quote the value.
    pub fn of<E: Display>(error: &serde_path_to_error::Error<E>) -> Option<(String, Self)> {
        let (path, message) = (error.path().to_string(), error.inner().to_string());
        let message = message.split(" at line ").next().unwrap_or_default();
        let named = |prefix| {
            let name = message.strip_prefix(prefix)?.split('`').next()?;
            let has_name = path.rsplit('.').next() == Some(name);
            Some(match path.as_str() {
                "." => name.to_owned(),
                _ if has_name => path.clone(),
                _ => format!("{path}.{name}"),
            })
        };
        let (field, fault) = if let Some(field) = named("missing field `") {
            (field, Self::Missing)
        } else if let Some(field) = named("duplicate field `") {
            (field, Self::Repeated)
        } else if let Some(field) = named("unknown field `") {
            (field, Self::Unknown)
        } else {
            let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected.to_owned());
            (path, expected.map_or(Self::Invalid, Self::Expected))
        };
        (field != ".").then_some((field, fault))
    }
}
