//! Reads the value of each setting from the environment and the TOML file, and collects all faults.

use std::collections::{BTreeMap, BTreeSet};
use std::{fs, num::NonZeroU32, ops::RangeInclusive, time::Duration};

use super::{earlier, parse::number, setting::Setting};

/// Declares a group of settings: a struct with a field for each, and `read`, which reads them in this order. A row is
/// `field: Type = "NAME", how to read it, further properties;`. The documentation of the field is the text about the
/// setting in `.env.example`. A field with `=>` is read by a function.
macro_rules! settings {
    ($(#[doc = $group:literal])+ $config:ident {
        $(#[doc = $about:literal] $field:ident: $type:ty
            $(= $name:literal, $read:ident($($arg:expr),*) $(, $property:ident($($value:expr),*))*)?
            $(=> $nested:path)?;)+
    }) => {
        $(#[doc = $group])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $config {
            $(#[doc = $about] pub $field: $type,)+
        }

        impl $config {
            pub(super) fn read(reader: &mut $crate::config::reader::Reader) -> Self {
                $(let $field =
                    $($crate::config::setting::Setting::new($name, $about) $(.$property($($value),*))* .$read(reader $(, $arg)*))?
                    $($nested(reader))?;)+
                Self { $($field),+ }
            }
        }
    };
}

pub(super) use settings;

/// Reads settings. It knows the settings that it has read, so unknown names are found at the end.
#[derive(Default)]
pub(super) struct Reader {
    /// The variables, without surrounding whitespace. An empty value counts as unset.
    env: BTreeMap<String, String>,
    /// Variables whose value is not valid UTF-8; they count as unset.
    invalid_utf8: Vec<String>,
    /// The settings in the TOML file, by the name of their variable.
    toml: BTreeMap<String, String>,
    toml_table: toml::Table,
    /// The settings read so far, in order.
    pub(super) settings: Vec<Setting>,
    /// Names of earlier systems whose values were used or checked.
    used_fallbacks: BTreeSet<&'static str>,
    pub(super) faults: Vec<String>,
}

impl Reader {
    pub(super) fn new(env: BTreeMap<String, String>) -> Self {
        let mut reader = Self::default();
        for (name, value) in env {
            let is_valid = !value.contains(char::REPLACEMENT_CHARACTER);
            reader.invalid_utf8.extend((!is_valid).then(|| name.clone()));
            reader.env.insert(name, if is_valid { value.trim().to_owned() } else { String::new() });
        }
        let about = "TOML file with settings. Keys are the names below in lower case without DCA_, for example \
                     log = \"debug\".";
        let text = Setting::new("DCA_CONFIG_FILE", about)
            .expects("the path of a readable TOML file, for example /etc/dca-auth.toml")
            .optional(&mut reader, |path| fs::read_to_string(path).ok());
        if let Some(text) = text {
            reader.parse_toml(&text);
        }
        reader
    }

    fn parse_toml(&mut self, text: &str) {
        self.toml_table = text.parse().unwrap_or_else(|error: toml::de::Error| {
            // The parser's message is not used: it quotes the line, which may contain a secret.
            let before = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(before).filter(|byte| *byte == b'\n').count();
            self.fault(format!(
                "Invalid TOML on line {line} of DCA_CONFIG_FILE. Use name = value, for example log = \"debug\"."
            ));
            toml::Table::new()
        });
        for (key, value) in &self.toml_table {
            if let Some(value) = to_text(value) {
                self.toml.insert(format!("DCA_{}", key.to_uppercase()), value);
            }
        }
    }

    /// Returns the name under which a setting is set, and its text.
    fn find(&mut self, setting: &Setting) -> Option<(String, String)> {
        for (layer, origin) in [(&self.env, ""), (&self.toml, " (from DCA_CONFIG_FILE)")] {
            let get = |name: &str| layer.get(name).filter(|value| !value.is_empty());
            let file = setting.file_name().and_then(|name| get(&name).map(|path| (name, path)));
            match (get(setting.name), file) {
                (None, None) => continue,
                (Some(value), None) => return Some((setting.name.to_owned() + origin, value.clone())),
                (None, Some((name, path))) => match fs::read_to_string(path) {
                    Ok(text) => return Some((name + origin, text.trim().to_owned())),
                    // The path is not quoted: it may be the secret itself, set under the wrong name.
                    Err(error) => self.faults.push(format!(
                        "Cannot read the file named by {name}: {error}. Use the path of a readable file, for example \
                         /run/secrets/dca."
                    )),
                },
                (Some(_), Some((name, _))) => {
                    self.faults.push(format!("{} and {name} are both set. Set only one of them.", setting.name));
                }
            }
            return None;
        }
        self.find_fallback(setting)
    }

    fn find_fallback(&mut self, setting: &Setting) -> Option<(String, String)> {
        for fallback in &setting.fallbacks {
            let names = fallback.names.split(' ');
            let values: Vec<&str> = names.clone().map(|name| self.env.get(name).map_or("", String::as_str)).collect();
            if values[0].is_empty() {
                continue;
            }
            self.used_fallbacks.extend(names);
            let label = fallback.names.replace(' ', ", ");
            let converted = (fallback.convert)(&values);
            if converted.is_none() {
                let expected = fallback.expected.unwrap_or(&setting.expected);
                self.faults.push(invalid_value(setting, &label, values[0], expected));
            }
            return converted.map(|value| (label, value));
        }
        None
    }

    pub(super) fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// Checks the names of everything that is set, after all settings were read, and the values of replaced settings.
    /// Returns the names of earlier systems that are set but not used.
    pub(super) fn finish(&mut self) -> Vec<&'static str> {
        for (name, _, expected, is_valid) in &earlier::REPLACED {
            self.used_fallbacks.insert(name);
            if self.env.get(*name).is_some_and(|value| !value.is_empty() && !is_valid(value)) {
                self.fault(format!("Invalid value for {name}. Remove it, or use {expected}."));
            }
        }
        let names = |setting: &Setting| [Some(setting.name.to_owned()), setting.file_name()];
        let known: BTreeSet<String> = self.settings.iter().flat_map(names).flatten().collect();
        let fallbacks: Vec<_> =
            self.settings.iter().flat_map(Setting::fallback_names).chain(earlier::names()).collect();
        for name in self.env.keys() {
            if known.contains(name) || fallbacks.contains(&name.as_str()) {
                if self.invalid_utf8.contains(name) {
                    self.faults.push(format!("The value of {name} is not valid UTF-8. Use UTF-8 text."));
                }
            } else if name.to_uppercase().starts_with("DCA_") {
                self.faults.push(unknown_setting(name, "", &known));
            }
        }
        self.check_toml_keys(&known);
        let is_set = |name: &&str| self.env.get(*name).is_some_and(|value| !value.is_empty());
        fallbacks.into_iter().filter(|name| is_set(name) && !self.used_fallbacks.contains(name)).collect()
    }

    fn check_toml_keys(&mut self, known: &BTreeSet<String>) {
        let lower = |name: &String| name.trim_start_matches("DCA_").to_lowercase();
        let mut keys: BTreeSet<String> = known.iter().map(lower).collect();
        keys.remove("config_file");
        for (key, value) in &self.toml_table {
            if !keys.contains(key) {
                self.faults.push(unknown_setting(key, " in DCA_CONFIG_FILE", &keys));
            } else if to_text(value).is_none() {
                self.faults.push(format!(
                    "Invalid type of {key} in DCA_CONFIG_FILE. Use a string, a number or a list of strings."
                ));
            }
        }
    }
}

impl Setting {
    /// Returns the value, if it is set and valid.
    pub(super) fn optional<T>(self, reader: &mut Reader, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let parsed = reader.find(&self).and_then(|(label, value)| {
            let parsed = parse(&value);
            if parsed.is_none() {
                reader.fault(invalid_value(&self, &label, &value, &self.expected));
            }
            parsed
        });
        reader.settings.push(self);
        parsed
    }

    /// Returns the value, or what `other` returns.
    pub(super) fn or_else<T>(self, r: &mut Reader, parse: impl Fn(&str) -> Option<T>, other: impl FnOnce() -> T) -> T {
        self.optional(r, parse).unwrap_or_else(other)
    }

    /// Returns the value, or the default.
    pub(super) fn or<T>(self, reader: &mut Reader, default: &'static str, parse: impl Fn(&str) -> Option<T>) -> T {
        self.default(default).or_else(reader, &parse, || parse(default).expect("every default is valid"))
    }

    /// Returns a number of seconds in `range`.
    pub(super) fn seconds(self, reader: &mut Reader, range: RangeInclusive<u64>, default: &'static str) -> Duration {
        let (min, max) = (range.start(), range.end());
        let expected = format!("a whole number of seconds from {min} to {max}, for example {default}");
        Duration::from_secs(self.expects(expected).or(reader, default, number(range)))
    }

    /// Returns a number of at least 1.
    pub(super) fn positive(self, reader: &mut Reader, default: &'static str) -> NonZeroU32 {
        let expected = format!("a whole number of at least 1, for example {default}");
        self.expects(expected).or(reader, default, |value| value.parse().ok())
    }
}

fn invalid_value(setting: &Setting, label: &str, value: &str, expected: &str) -> String {
    // A value with an @ may be a URL with a password, set under the wrong name.
    let is_hidden = setting.is_secret || value.contains('@');
    let value = if is_hidden { String::new() } else { format!(" {value:?}") };
    format!("Invalid value{value} for {label}. Use {expected}.")
}

fn unknown_setting(name: &str, place: &str, known: &BTreeSet<String>) -> String {
    // Compare without the prefix, because Jaro-Winkler gives weight to a common prefix.
    let bare = |name: &str| name.to_uppercase().trim_start_matches("DCA_").to_owned();
    let similarity = |other: &String| strsim::jaro_winkler(&bare(name), &bare(other));
    let best = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    match best.filter(|best| similarity(best) > 0.85) {
        Some(best) => format!("Unknown setting {name}{place}. Did you mean {best}?"),
        None => format!("Unknown setting {name}{place}. See .env.example for all settings."),
    }
}

fn to_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.trim().to_owned()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}
