//! Finds the value of each variable and collects every fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::vars::{REPLACED, VARS, Var, earlier, known};

/// Finds the value of each variable, collects the faults.
#[derive(Default)]
pub(super) struct Reader {
    env: BTreeMap<String, String>,
    /// Of each variable that is set: the name it came by, and the value.
    found: BTreeMap<&'static str, (String, String)>,
    /// Names that had their say.
    pub(super) seen: BTreeSet<&'static str>,
    /// Names of earlier systems that were looked at and replaced.
    seen_earlier: BTreeSet<&'static str>,
    pub(super) faults: Vec<String>,
}

impl Reader {
    pub(super) fn new(env: BTreeMap<String, String>) -> Self {
        let mut reader = Self::default();
        reader.env = reader.ours(env);
        reader.take(&reader.env.clone(), "");
        if let Some(text) = reader.given("DCA_CONFIG_FILE", |path| fs::read_to_string(path).ok()) {
            let values = reader.parse_toml(&text);
            reader.take(&values, " (from DCA_CONFIG_FILE)");
        }
        reader.take_earlier();
        reader
    }

    /// What is set under names of ours.
    fn ours(&mut self, env: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let known = known();
        let mut ours = BTreeMap::new();
        for (name, value) in env {
            if known.contains(&name) || earlier().any(|earlier| earlier == name) {
                if value.contains(char::REPLACEMENT_CHARACTER) {
                    self.fault(format!("{name}: not UTF-8; expected text"));
                } else if !value.trim().is_empty() {
                    ours.insert(name, value.trim().to_owned());
                }
            } else if name.to_uppercase().starts_with("DCA_") {
                self.fault(unknown(&name, &known));
            }
        }
        ours
    }

    /// Fills what is still unset from `layer`, following `_FILE` variants.
    fn take(&mut self, layer: &BTreeMap<String, String>, origin: &str) {
        for var in VARS {
            let in_file = format!("{}_FILE", var.name);
            let path = layer.get(&in_file).filter(|_| var.secret);
            match (layer.get(var.name), path) {
                _ if self.found.contains_key(var.name) => {}
                (None, None) => {}
                (Some(value), None) => self.find(var, var.name.to_owned() + origin, value),
                (None, Some(path)) => match fs::read_to_string(path) {
                    Ok(text) => self.find(var, in_file + origin, text.trim()),
                    // The path stays unnamed: it may be the secret, put under the wrong name.
                    Err(error) => self.fault(format!("{in_file}: {error}; expected a file")),
                },
                _ => self.fault(format!("{}, {in_file}: expected one of them", var.name)),
            }
        }
    }

    fn parse_toml(&mut self, text: &str) -> BTreeMap<String, String> {
        let table = text.parse::<toml::Table>().unwrap_or_else(|error| {
            // The parser's own words quote the line, which may hold a secret.
            let before = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(before).filter(|byte| *byte == b'\n').count();
            self.fault(format!("DCA_CONFIG_FILE: line {line} does not fit; expected TOML"));
            toml::Table::new()
        });
        let lower = |name: &String| name.trim_start_matches("DCA_").to_lowercase();
        let mut keys: BTreeSet<String> = known().iter().map(lower).collect();
        keys.remove("config_file");
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let name = format!("DCA_{}", key.to_uppercase());
            match plain(&value) {
                _ if !keys.contains(&key) => {
                    self.fault(format!("DCA_CONFIG_FILE: {}", unknown(&key, &keys)));
                }
                Some(value) if value.trim().is_empty() => {}
                Some(value) => _ = values.insert(name, value.trim().to_owned()),
                None => self.fault(format!("DCA_CONFIG_FILE: {key}: expected a string or number")),
            }
        }
        values
    }

    fn take_earlier(&mut self) {
        for var in VARS {
            for (names, about, convert) in var.fallbacks {
                let value = |name| self.env.get(name).map_or("", String::as_str);
                let values: Vec<&str> = names.split(' ').map(value).collect();
                if self.found.contains_key(var.name) || values[0].is_empty() {
                    continue;
                }
                match convert(&values) {
                    Some(value) => self.find(var, (*names).to_owned(), &value),
                    None => self.fault(misfit(var, names, values[0], about)),
                }
                self.seen.extend(names.split(' '));
            }
        }
    }

    fn find(&mut self, var: &'static Var, label: String, value: &str) {
        self.found.insert(var.name, (label, value.to_owned()));
    }

    pub(super) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// The value of a row if it is set and fits.
    pub(super) fn given<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let var = row(name);
        self.seen.insert(var.name);
        let (label, value) = self.found.get(name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            let (_, expected) = var.about.split_once(": ").expect("about says what is expected");
            self.fault(misfit(var, label, value, expected));
        }
        parsed
    }

    /// The same, else its default.
    pub(super) fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let given = self.given(name, &parse);
        given.unwrap_or_else(|| parse(row(name).default).expect("every default fits"))
    }

    /// Under names whose work is done otherwise here, what nobody should have set anywhere.
    pub(super) fn refuse_examples(&mut self) {
        for (name, about, fits) in REPLACED {
            self.seen_earlier.insert(name);
            if self.env.get(*name).is_some_and(|value| !fits(value)) {
                let (_, expected) = about.split_once(": ").expect("about says what is expected");
                self.fault(format!("{name}: the value does not fit; expected {expected}"));
            }
        }
    }

    pub(super) fn ignored(&self) -> Vec<&'static str> {
        let idle = |name: &&str| {
            self.env.contains_key(*name) && !self.seen.contains(name) && !self.seen_earlier.contains(name)
        };
        earlier().filter(idle).collect()
    }
}

pub(super) fn row(name: &str) -> &'static Var {
    let mut rows = VARS.iter();
    rows.find(|var| var.name == name).expect("only rows of VARS are read")
}

fn misfit(var: &Var, label: &str, value: &str, expected: &str) -> String {
    // What contains an @ may be a URL with a password, put under the wrong name.
    let hidden = (var.secret || value.contains('@')).then(|| "the value".to_owned());
    let what = hidden.unwrap_or_else(|| format!("{value:?}"));
    format!("{label}: {what} does not fit; expected {expected}")
}

fn unknown(name: &str, known: &BTreeSet<String>) -> String {
    // Jaro-Winkler favors a common beginning, which the prefix would give to every name.
    let bare = |name: &str| name.to_uppercase().trim_start_matches("DCA_").to_owned();
    let alike = |other: &String| strsim::jaro_winkler(&bare(name), &bare(other));
    let best = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match best.filter(|best| alike(best) > 0.85) {
        Some(best) => format!("{name}: unknown; did you mean {best}?"),
        None => format!("{name}: unknown; expected a name of .env.example"),
    }
}

fn plain(value: &toml::Value) -> Option<String> {
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
