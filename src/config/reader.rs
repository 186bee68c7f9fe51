//! Reads the value of each variable from the environment and the TOML file, and collects all faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::vars::{REPLACED, VARS, Var, earlier, known};

/// Reads the values of variables and collects faults.
#[derive(Default)]
pub(super) struct Reader {
    env: BTreeMap<String, String>,
    /// The source name and the value of each variable that is set.
    values: BTreeMap<&'static str, (String, String)>,
    /// Names that were read.
    pub(super) seen: BTreeSet<&'static str>,
    /// Names of earlier systems that were checked and are replaced by something else.
    seen_earlier: BTreeSet<&'static str>,
    pub(super) faults: Vec<String>,
}

impl Reader {
    pub(super) fn new(env: BTreeMap<String, String>) -> Self {
        let mut reader = Self::default();
        reader.env = reader.known_settings(env);
        reader.read_layer(&reader.env.clone(), "");
        if let Some(text) = reader.given("DCA_CONFIG_FILE", |path| fs::read_to_string(path).ok()) {
            let values = reader.parse_toml(&text);
            reader.read_layer(&values, " (from DCA_CONFIG_FILE)");
        }
        reader.read_fallbacks();
        reader
    }

    /// Returns the known settings of `env`. Unknown `DCA_` names are faults.
    fn known_settings(&mut self, env: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let known = known();
        let mut settings = BTreeMap::new();
        for (name, value) in env {
            if known.contains(&name) || earlier().any(|earlier| earlier == name) {
                if value.contains(char::REPLACEMENT_CHARACTER) {
                    self.fault(format!("The value of {name} is not valid UTF-8. Use UTF-8 text."));
                } else if !value.trim().is_empty() {
                    settings.insert(name, value.trim().to_owned());
                }
            } else if name.to_uppercase().starts_with("DCA_") {
                self.fault(unknown_setting(&name, "", &known));
            }
        }
        settings
    }

    /// Reads variables that are not set yet from `layer`, and the files that its `_FILE` variants name.
    fn read_layer(&mut self, layer: &BTreeMap<String, String>, origin: &str) {
        for var in VARS {
            let in_file = format!("{}_FILE", var.name);
            let path = layer.get(&in_file).filter(|_| var.secret);
            match (layer.get(var.name), path) {
                _ if self.values.contains_key(var.name) => {}
                (None, None) => {}
                (Some(value), None) => self.set(var, var.name.to_owned() + origin, value),
                (None, Some(path)) => match fs::read_to_string(path) {
                    Ok(text) => self.set(var, in_file + origin, text.trim()),
                    // The path is not quoted: it may be the secret itself, set under the wrong name.
                    Err(error) => self.fault(format!(
                        "Cannot read the file named by {in_file}: {error}. Use the path of a readable file, for example \
                         /run/secrets/dca."
                    )),
                },
                _ => self.fault(format!("{} and {in_file} are both set. Set only one of them.", var.name)),
            }
        }
    }

    fn parse_toml(&mut self, text: &str) -> BTreeMap<String, String> {
        let table = text.parse::<toml::Table>().unwrap_or_else(|error| {
            // The parser's message is not used: it quotes the line, which may contain a secret.
            let before = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(before).filter(|byte| *byte == b'\n').count();
            self.fault(format!(
                "Invalid TOML on line {line} of DCA_CONFIG_FILE. Use name = value, for example log = \"debug\"."
            ));
            toml::Table::new()
        });
        let lower = |name: &String| name.trim_start_matches("DCA_").to_lowercase();
        let mut keys: BTreeSet<String> = known().iter().map(lower).collect();
        keys.remove("config_file");
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let name = format!("DCA_{}", key.to_uppercase());
            match to_text(&value) {
                _ if !keys.contains(&key) => {
                    self.fault(unknown_setting(&key, " in DCA_CONFIG_FILE", &keys));
                }
                Some(value) if value.trim().is_empty() => {}
                Some(value) => _ = values.insert(name, value.trim().to_owned()),
                None => self.fault(format!(
                    "Invalid type of {key} in DCA_CONFIG_FILE. Use a string, a number or a list of strings."
                )),
            }
        }
        values
    }

    fn read_fallbacks(&mut self) {
        for var in VARS {
            for (names, expected, convert) in var.fallbacks {
                let value = |name| self.env.get(name).map_or("", String::as_str);
                let values: Vec<&str> = names.split(' ').map(value).collect();
                if self.values.contains_key(var.name) || values[0].is_empty() {
                    continue;
                }
                let label = names.replace(' ', ", ");
                match convert(&values) {
                    Some(value) => self.set(var, label, &value),
                    None => self.fault(invalid_value(var, &label, values[0], expected)),
                }
                self.seen.extend(names.split(' '));
            }
        }
    }

    fn set(&mut self, var: &'static Var, label: String, value: &str) {
        self.values.insert(var.name, (label, value.to_owned()));
    }

    pub(super) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// Returns the value of a variable, if it is set and valid.
    pub(super) fn given<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let var = row(name);
        self.seen.insert(var.name);
        let (label, value) = self.values.get(name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.fault(invalid_value(var, label, value, var.expected));
        }
        parsed
    }

    /// Returns the value of a variable, or its default.
    pub(super) fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let value = self.given(name, &parse);
        value.unwrap_or_else(|| parse(row(name).default).expect("every default is valid"))
    }

    /// Refuses invalid values and published example secrets of replaced settings.
    pub(super) fn refuse_examples(&mut self) {
        for (name, _, expected, is_valid) in REPLACED {
            self.seen_earlier.insert(name);
            if self.env.get(*name).is_some_and(|value| !is_valid(value)) {
                self.fault(format!("Invalid value for {name}. Remove it, or use {expected}."));
            }
        }
    }

    /// Names of earlier systems that are set but not used.
    pub(super) fn ignored(&self) -> Vec<&'static str> {
        let is_unused = |name: &&str| {
            self.env.contains_key(*name) && !self.seen.contains(name) && !self.seen_earlier.contains(name)
        };
        earlier().filter(is_unused).collect()
    }
}

pub(super) fn row(name: &str) -> &'static Var {
    let mut rows = VARS.iter();
    rows.find(|var| var.name == name).expect("only variables of VARS are read")
}

fn invalid_value(var: &Var, label: &str, value: &str, expected: &str) -> String {
    // A value with an @ may be a URL with a password, set under the wrong name.
    let is_hidden = var.secret || value.contains('@');
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
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}
