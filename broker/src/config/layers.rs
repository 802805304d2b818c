//! The layers that a configuration is made of: file, environment, flags.

use super::error::ConfigError;
use super::keys::{Key, join, nearest, split};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Value;
use toml::de::{DeTable, DeValue};

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// As it was named.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// An environment variable of this name.
    Environment(String),
    /// A flag of this name.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One value that one layer sets.
#[derive(Clone, PartialEq, Debug)]
pub struct Assignment {
    /// With its sections, such as `mqtt.max_packet_size`.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Where it stands.
    pub source: Source,
}

/// What the operator gave, before it is checked.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file's name and text.
    pub file: Option<(PathBuf, String)>,
    /// All environment variables; those of others are left alone.
    pub environment: Vec<(String, String)>,
    /// Values set by flags.
    pub flags: Vec<Assignment>,
    /// The port of `--port`, which replaces that of `listeners.tcp.bind`.
    pub port: Option<u16>,
}

/// Reads the file's values; what is wrong goes to `errors`.
pub(super) fn from_file(
    path: &Path,
    text: &str,
    keys: &[Key],
    errors: &mut Vec<ConfigError>,
) -> Vec<Assignment> {
    let at = |byte: usize| {
        let (line, column) = line_and_column(text, byte);
        Source::File { path: path.to_owned(), line, column }
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let source = at(error.span().map_or(0, |span| span.start));
            errors.push(ConfigError { source, message: error.message().to_owned() });
            return Vec::new();
        }
    };
    let mut walk = FileWalk { keys, at: &at, found: Vec::new(), errors };
    walk.table("", table);
    walk.found
}

struct FileWalk<'a> {
    keys: &'a [Key],
    at: &'a dyn Fn(usize) -> Source,
    found: Vec<Assignment>,
    errors: &'a mut Vec<ConfigError>,
}

impl FileWalk<'_> {
    /// Takes the values of one section; the depth is that of the known sections.
    fn table(&mut self, section: &str, table: DeTable<'_>) {
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = join(section, key.get_ref());
            let source = (self.at)(key.span().start);
            if self.keys.iter().any(|known| known.name == name) {
                let source = (self.at)(value.span().start);
                match Value::deserialize(value.into_deserializer()) {
                    Ok(value) => self.found.push(Assignment { key: name, value, source }),
                    Err(error) => self.error(source, error.message().to_owned()),
                }
            } else if self.keys.iter().any(|known| is_within(&known.name, &name)) {
                match value.into_inner() {
                    DeValue::Table(table) => self.table(&name, table),
                    _ => self.error(source, format!("{name} is a section; write [{name}]")),
                }
            } else {
                let message = unknown(&name, value.get_ref().is_table(), self.keys);
                self.error(source, message);
            }
        }
    }

    fn error(&mut self, source: Source, message: String) {
        self.errors.push(ConfigError { source, message });
    }
}

fn is_within(name: &str, section: &str) -> bool {
    name.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// The message for a name that does not exist, with the one that was probably meant: in the same
/// section, or the same key in another section.
fn unknown(name: &str, is_section: bool, keys: &[Key]) -> String {
    let (section, key) = split(name);
    let here = keys.iter().filter_map(|known| part_after(&known.name, section));
    let elsewhere = || keys.iter().find(|known| split(&known.name).1 == key);
    let meant = nearest(key, here).map(|part| join(section, part));
    let meant = meant.or_else(|| elsewhere().map(|known| known.name.clone()));
    let what = match (is_section, section) {
        (true, _) => format!("unknown section [{name}]"),
        (false, "") => format!("unknown key \"{key}\" outside of any section"),
        (false, _) => format!("unknown key \"{key}\" in [{section}]"),
    };
    match meant {
        Some(meant) if is_section => format!("{what} (did you mean [{meant}]?)"),
        Some(meant) if split(&meant).0 == section => {
            format!("{what} (did you mean \"{}\"?)", split(&meant).1)
        }
        Some(meant) => {
            let (section, key) = split(&meant);
            format!("{what} (did you mean \"{key}\" in [{section}]?)")
        }
        None => what,
    }
}

/// The part of a known name that stands directly in `section`.
fn part_after<'a>(name: &'a str, section: &str) -> Option<&'a str> {
    let rest =
        if section.is_empty() { name } else { name.strip_prefix(section)?.strip_prefix('.')? };
    rest.split('.').next()
}

fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |position| position + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

const PREFIX: &str = "RINGLANE_";

/// Reads the values that environment variables set; what is wrong goes to `errors`.
///
/// `RINGLANE_MQTT__MAX_PACKET_SIZE` sets `mqtt.max_packet_size`. A name without `__` that is no
/// key is left alone: Kubernetes sets `RINGLANE_PORT` and the like for a service of that name.
pub(super) fn from_environment(
    environment: &[(String, String)],
    keys: &[Key],
    errors: &mut Vec<ConfigError>,
) -> Vec<Assignment> {
    let mut found = Vec::new();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let name = name.to_ascii_lowercase().replace("__", ".");
        let source = Source::Environment(variable.clone());
        if keys.iter().any(|known| known.name == name) {
            found.push(Assignment { key: name, value: value_of(text), source });
        } else if name.contains('.') {
            let names = keys.iter().map(|known| known.name.as_str());
            let hint = nearest(&name, names).map_or_else(String::new, |meant| {
                format!(" (did you mean {PREFIX}{}?)", variable_part(meant))
            });
            errors.push(ConfigError { source, message: format!("no such key{hint}") });
        }
    }
    found
}

fn variable_part(name: &str) -> String {
    name.replace('.', "__").to_ascii_uppercase()
}

/// A value as TOML would read it; text that is no TOML stands for itself.
fn value_of(text: &str) -> Value {
    let parsed = toml::de::ValueDeserializer::parse(text).ok();
    parsed
        .and_then(|value| Value::deserialize(value).ok())
        .filter(|value| !matches!(value, Value::Datetime(_) | Value::Table(_)))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
