//! The description of a setting: one row of `.env.example`.

/// A setting and its documentation.
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// What the setting is for.
    pub(super) about: &'static str,
    /// The expected value, as in "Use an IP address and port". Faults quote it.
    pub(super) expected: String,
    /// The default, as in `.env.example`; empty if unset.
    pub(super) default: &'static str,
    /// Whether the value is never quoted and can be read from the file that `NAME_FILE` names.
    pub(super) is_secret: bool,
    pub(super) fallbacks: Vec<Fallback>,
}

/// Names of earlier systems that give the value of a setting.
pub(super) struct Fallback {
    /// The names, separated by spaces; the first must be set.
    pub(super) names: &'static str,
    /// The expected value, if its format differs from that of the setting.
    pub(super) expected: Option<&'static str>,
    pub(super) convert: Convert,
}

/// Converts the values of an earlier system (empty if unset) to the setting's own format.
type Convert = fn(&[&str]) -> Option<String>;

impl Setting {
    pub(super) fn new(name: &'static str, about: &'static str) -> Self {
        let (expected, fallbacks) = (String::new(), Vec::new());
        Self { name, about: about.trim_start(), expected, default: "", is_secret: false, fallbacks }
    }

    pub(super) fn expects(self, expected: impl Into<String>) -> Self {
        Self { expected: expected.into(), ..self }
    }

    pub(super) fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    pub(super) fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    /// Adds the name of an earlier system, whose values have the same format.
    pub(super) fn fallback(mut self, names: &'static str) -> Self {
        self.fallbacks.push(Fallback { names, expected: None, convert: verbatim });
        self
    }

    /// Adds names of an earlier system, whose values have another format.
    pub(super) fn converted(mut self, names: &'static str, expected: &'static str, convert: Convert) -> Self {
        self.fallbacks.push(Fallback { names, expected: Some(expected), convert });
        self
    }

    /// The variable that names a file with the value, for secrets.
    pub(super) fn file_name(&self) -> Option<String> {
        self.is_secret.then(|| format!("{}_FILE", self.name))
    }

    /// All names of earlier systems.
    pub(super) fn fallback_names(&self) -> impl Iterator<Item = &'static str> {
        self.fallbacks.iter().flat_map(|fallback| fallback.names.split(' '))
    }
}

/// Converts nothing.
pub(super) fn verbatim(values: &[&str]) -> Option<String> {
    values.first().copied().map(str::to_owned)
}
