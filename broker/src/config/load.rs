//! Merging the layers: the later one wins, every value keeps its source, and everything that is
//! wrong is reported at once.

use super::error::{ConfigError, ConfigErrors};
use super::keys::{Key, keys_of, known_keys, split};
use super::layers::{Assignment, Layers, Source, from_environment, from_file};
use super::{Config, validate};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use toml::{Table, Value};

/// A configuration that is right, and where its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    sources: BTreeMap<String, Source>,
}

/// Merges and checks.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load(layers: &Layers) -> Result<Loaded, ConfigErrors> {
    let keys = known_keys();
    let mut merge = Merge::new();
    merge.take(state_directory(&layers.environment));
    if let Some((path, text)) = &layers.file {
        let found = from_file(path, text, &keys, &mut merge.errors);
        merge.take(found);
    }
    let found = from_environment(&layers.environment, &keys, &mut merge.errors);
    merge.take(found);
    merge.take(layers.flags.iter().cloned());
    if let Some(port) = layers.port {
        merge.set_port(port);
    }
    merge.finish()
}

/// The directory that systemd made for the service (`StateDirectory=`, systemd.exec(5)); it is
/// the default of `data_dir`, so that it gives way to the file.
fn state_directory(environment: &[(String, String)]) -> Option<Assignment> {
    const VARIABLE: &str = "STATE_DIRECTORY";
    let (_, text) = environment.iter().find(|(name, _)| name == VARIABLE)?;
    let first = text.split(':').next().filter(|first| !first.is_empty())?;
    Some(Assignment {
        key: "data_dir".to_owned(),
        value: Value::String(first.to_owned()),
        source: Source::Environment(VARIABLE.to_owned()),
    })
}

struct Merge {
    table: Table,
    sources: BTreeMap<String, Source>,
    errors: Vec<ConfigError>,
}

impl Merge {
    fn new() -> Self {
        Self { table: Table::new(), sources: BTreeMap::new(), errors: Vec::new() }
    }

    fn take(&mut self, assignments: impl IntoIterator<Item = Assignment>) {
        for Assignment { key, value, source } in assignments {
            match fitting(&key, value, &source) {
                Ok(value) => {
                    insert(&mut self.table, &key, value);
                    self.sources.insert(key, source);
                }
                Err(message) => self.errors.push(ConfigError { source, message }),
            }
        }
    }

    fn set_port(&mut self, port: u16) {
        let Ok(config) = Config::deserialize(Value::Table(self.table.clone())) else { return };
        let mut bind = config.listeners.tcp.bind;
        bind.set_port(port);
        self.take([Assignment {
            key: "listeners.tcp.bind".to_owned(),
            value: Value::String(bind.to_string()),
            source: Source::Flag("--port"),
        }]);
    }

    fn finish(mut self) -> Result<Loaded, ConfigErrors> {
        let config = match Config::deserialize(Value::Table(self.table)) {
            Ok(config) => config,
            // Every value was deserialized alone before it was taken.
            Err(error) => {
                let message = error.message().to_owned();
                self.errors.push(ConfigError { source: Source::Default, message });
                return Err(ConfigErrors(self.errors));
            }
        };
        for problem in validate::problems(&config) {
            let set_by = problem.keys.iter().find_map(|key| self.sources.get(*key));
            let source = set_by.cloned().unwrap_or(Source::Default);
            self.errors.push(ConfigError { source, message: problem.message });
        }
        if self.errors.is_empty() {
            Ok(Loaded { config, sources: self.sources })
        } else {
            Err(ConfigErrors(self.errors))
        }
    }
}

/// The value in the type that its key has. An environment variable's text may look like a number
/// where the key wants text: then the text is taken.
fn fitting(key: &str, value: Value, source: &Source) -> Result<Value, String> {
    let error = match check(key, &value) {
        Ok(()) => return Ok(value),
        Err(error) => error,
    };
    let as_text = match (&value, source) {
        (Value::String(_), _) | (_, Source::Default | Source::File { .. } | Source::Flag(_)) => {
            None
        }
        (other, Source::Environment(_)) => Some(Value::String(other.to_string())),
    };
    match as_text {
        Some(text) if check(key, &text).is_ok() => Ok(text),
        _ => Err(format!("{key}: {error}")),
    }
}

fn check(key: &str, value: &Value) -> Result<(), String> {
    let mut table = Table::new();
    insert(&mut table, key, value.clone());
    match Config::deserialize(Value::Table(table)) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.message().to_owned()),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    let (sections, last) = split(key);
    let mut place = table;
    for section in sections.split('.').filter(|section| !section.is_empty()) {
        let inner = place.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else { return };
        place = inner;
    }
    place.insert(last.to_owned(), value);
}

impl Loaded {
    /// Where the value of `key` came from.
    #[must_use]
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    /// The effective configuration as a TOML file, with the source of every value.
    #[must_use]
    pub fn render(&self) -> String {
        let keys = keys_of(&self.config);
        let lines: Vec<String> = keys.iter().map(assignment_line).collect();
        let width = lines.iter().map(|line| line.len()).max().unwrap_or(0).min(COMMENT_COLUMN_MAX);
        let mut text = String::new();
        let mut open = "";
        for (key, line) in keys.iter().zip(&lines) {
            let (section, _) = split(&key.name);
            if section != open {
                let _ = writeln!(text, "\n[{section}]");
                open = section;
            }
            let _ = writeln!(text, "{line:width$}  # {}", self.source(&key.name));
        }
        text
    }
}

/// Sources stand in one column, unless a value is longer than this.
const COMMENT_COLUMN_MAX: usize = 48;

fn assignment_line(key: &Key) -> String {
    format!("{} = {}", split(&key.name).1, key.default)
}
