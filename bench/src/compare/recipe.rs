//! How a broker is started for a comparison: built-in recipes, a recipe of the user's, or a command.

use crate::document::BrokerInfo;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The built-in recipes by name.
const BUILT_IN: [(&str, &str); 16] = [
    ("ringlane", include_str!("recipes/ringlane.toml")),
    ("floor", include_str!("recipes/floor.toml")),
    ("mosquitto", include_str!("recipes/mosquitto.toml")),
    ("rumqttd", include_str!("recipes/rumqttd.toml")),
    ("nats", include_str!("recipes/nats.toml")),
    ("rabbitmq", include_str!("recipes/rabbitmq.toml")),
    ("ringlane-disk", include_str!("recipes/ringlane-disk.toml")),
    ("mosquitto-disk", include_str!("recipes/mosquitto-disk.toml")),
    ("mosquitto-safest", include_str!("recipes/mosquitto-safest.toml")),
    ("nats-disk", include_str!("recipes/nats-disk.toml")),
    ("nats-sync", include_str!("recipes/nats-sync.toml")),
    ("rabbitmq-disk", include_str!("recipes/rabbitmq-disk.toml")),
    ("ringlane-cluster", include_str!("recipes/ringlane-cluster.toml")),
    ("nats-r3", include_str!("recipes/nats-r3.toml")),
    ("nats-r3-sync", include_str!("recipes/nats-r3-sync.toml")),
    ("rabbitmq-quorum", include_str!("recipes/rabbitmq-quorum.toml")),
];

/// The level in the recipe `ringlane-cluster`.
const DEFAULT_LEVEL: &str = "quorum_disk";

/// Where system packages put daemons, beside `PATH`.
const DAEMON_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// How to start a broker. In every text `{program}`, `{program_dir}`, `{dir}`, `{port}` to `{port3}`,
/// `{cpu}` and `{unbatched}` are replaced; for a node of a cluster also `{node}`, its number from 1 on, and
/// `{n1.port}`, `{n1.port1}`, ..., which are ports of node 1, and so on.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The executable's name, looked for beside this program, where `scripts/peers.sh` puts peers,
    /// in `search`, and in `PATH`. Empty: the command names its own.
    #[serde(default)]
    pub program: String,
    /// More directories for `program`, first.
    #[serde(default)]
    pub search: Vec<PathBuf>,
    /// The shell command that runs the broker in the foreground.
    pub command: String,
    /// A shell command to run when it is stopped, for what its end leaves behind.
    #[serde(default)]
    pub stop: Option<String>,
    /// A shell command whose first line of output is its name and version.
    #[serde(default)]
    pub version: Option<String>,
    /// Its Prometheus page, if it has Ringlane's counters.
    #[serde(default)]
    pub metrics: Option<String>,
    /// Seconds that it needs before it is measured; more than others only where its makers say so or
    /// figures do.
    #[serde(default)]
    pub warm_up_seconds: f64,
    /// How many of it make one broker: a cluster, each with its own directory and ports.
    #[serde(default = "one")]
    pub nodes: u16,
    /// For a cluster: a shell command to run once when all nodes take clients, with the environment of the
    /// first.
    #[serde(default)]
    pub prepare: Option<String>,
    /// For a cluster: a shell command that prints the number of the node that clients are best connected to.
    #[serde(default)]
    pub leader: Option<String>,
    /// The highest quality of service that it forwards.
    #[serde(default = "qos_2")]
    pub qos_max: u8,
    /// What a reader of the report must know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Files that are written into `{dir}`.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Environment variables.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// As the recipe `ringlane-cluster` has it.
fn partitions_line(count: u32) -> String {
    format!("partitions = {count}")
}

fn one() -> u16 {
    1
}

fn qos_2() -> u8 {
    2
}

impl Recipe {
    /// A built-in recipe, and `None` if there is none of that name.
    ///
    /// # Errors
    /// If the recipe is not well formed, which a test excludes.
    pub fn built_in(name: &str) -> Result<Option<Self>> {
        let found = BUILT_IN.iter().find(|(known, _)| *known == name);
        found.map(|(name, text)| Self::parse(text).with_context(|| (*name).to_owned())).transpose()
    }

    /// The names of the built-in recipes.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// Reads a recipe.
    ///
    /// # Errors
    /// If it is not TOML, or has a key that does not exist.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// A recipe of nothing but a command.
    #[must_use]
    pub fn of_command(command: &str) -> Self {
        Self {
            program: String::new(),
            search: Vec::new(),
            command: command.to_owned(),
            stop: None,
            version: None,
            metrics: None,
            warm_up_seconds: 0.0,
            nodes: 1,
            prepare: None,
            leader: None,
            qos_max: qos_2(),
            notes: Vec::new(),
            files: BTreeMap::new(),
            environment: BTreeMap::new(),
        }
    }

    /// Three nodes of Ringlane whose acknowledgements are at a level (`memory`, `local_disk`,
    /// `quorum_memory` or `quorum_disk`), with so many partitions.
    ///
    /// # Errors
    /// If the recipe is not well formed, which a test excludes.
    pub fn ringlane_cluster(level: &str, partitions: u32) -> Result<Self> {
        let mut recipe = Self::built_in("ringlane-cluster")?.context("it is built in")?;
        let wanted = partitions_line(partitions);
        for text in recipe.files.values_mut() {
            *text = text.replace(DEFAULT_LEVEL, level).replace(&partitions_line(1), &wanted);
        }
        recipe.notes.push(format!("Level `{level}`, {wanted}."));
        Ok(recipe)
    }

    /// Reads what follows `--broker`: the name of a recipe, `NAME=FILE.toml` or `NAME=COMMAND`.
    ///
    /// # Errors
    /// If there is no such recipe, or it cannot be read.
    pub fn from_flag(text: &str) -> Result<(String, Self)> {
        let Some((name, value)) = text.split_once('=') else {
            let names = Self::names().join(", ");
            let recipe = Self::built_in(text)?;
            let recipe = recipe.with_context(|| {
                format!("no recipe {text:?}: there are {names}; or NAME='COMMAND with {{port}}'")
            })?;
            return Ok((text.to_owned(), recipe));
        };
        ensure!(!name.is_empty(), "--broker {text:?} has no name");
        if Path::new(value).extension().is_some_and(|extension| extension == "toml") {
            let recipe = fs::read_to_string(value).with_context(|| value.to_owned())?;
            return Ok((name.to_owned(), Self::parse(&recipe).with_context(|| value.to_owned())?));
        }
        ensure!(value.contains("{port}"), "--broker {text:?} does not say where {{port}} goes");
        Ok((name.to_owned(), Self::of_command(value)))
    }

    /// Finds the program.
    ///
    /// # Errors
    /// If it is nowhere; the text says how to install it.
    pub fn find_program(&self, name: &str) -> Result<PathBuf> {
        if self.program.is_empty() {
            return Ok(PathBuf::new());
        }
        let candidates = self.directories().into_iter().map(|place| place.join(&self.program));
        if let Some(found) = candidates.into_iter().find(|path| path.is_file()) {
            return Ok(found);
        }
        if name == "ringlane" {
            bail!("{} is not here: cargo build --release -p ringlane", self.program);
        }
        bail!("{} is not installed: ./scripts/peers.sh {name}", self.program)
    }

    fn directories(&self) -> Vec<PathBuf> {
        let beside = env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
        let path = env::var_os("PATH").unwrap_or_default();
        let mut all = self.search.clone();
        all.extend(beside);
        all.extend(peers_directory());
        all.extend(env::split_paths(&path));
        all.extend(DAEMON_DIRECTORIES.map(PathBuf::from));
        all
    }

    /// The first line that its version command prints; empty if it fails.
    #[must_use]
    pub fn version_line(&self, values: &Values) -> String {
        let Some(command) = &self.version else { return String::new() };
        let output = Command::new("sh").args(["-c", &values.fill(command)]).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    }

    /// What a shell command of this recipe prints, run with its environment.
    ///
    /// # Errors
    /// If it cannot be run or fails; what it says of that.
    pub(super) fn output_of(&self, command: &str, values: &Values) -> Result<String> {
        let variables = self.environment.iter().map(|(name, value)| (name, values.fill(value)));
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", &values.fill(command)]).envs(variables).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command}: {} {said}", error.trim());
        Ok(said)
    }

    /// What the report says of it, with its texts as they will be used.
    #[must_use]
    pub fn info(&self, name: &str, version: String, values: &Values) -> BrokerInfo {
        let files = self.files.iter();
        let mut notes = self.notes.clone();
        if self.warm_up_seconds > 0.0 {
            notes.push(format!("Warm-up of at least {} s.", self.warm_up_seconds));
        }
        let variables = self.environment.iter();
        let variables = variables.map(|(name, value)| format!("{name}='{}' ", values.fill(value)));
        BrokerInfo {
            name: name.to_owned(),
            version,
            command: format!("{}{}", variables.collect::<String>(), values.command(&self.command)),
            files: files.map(|(name, text)| (name.clone(), values.fill(text))).collect(),
            notes,
        }
    }
}

/// `$RINGLANE_PEERS/bin`, else the user's cache directory: where `scripts/peers.sh` puts peers.
fn peers_directory() -> Option<PathBuf> {
    let given = env::var_os("RINGLANE_PEERS").map(PathBuf::from);
    let cache = || {
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Some(env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("ringlane/peers"))
    };
    Some(given.or_else(cache)?.join("bin"))
}

/// What the placeholders of a recipe stand for.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// The executable.
    pub program: PathBuf,
    /// A fresh directory.
    pub directory: PathBuf,
    /// The port to listen on; the three after it are free, too.
    pub port: u16,
    /// The CPUs to which the broker is pinned, as `taskset -c` takes them.
    pub cpu: String,
    /// Whether a relay is to write every packet on its own.
    pub unbatched: bool,
    /// Which node of a cluster it is.
    pub seat: Option<Seat>,
}

/// A place in a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Its number, from 1 on.
    pub node: u16,
    /// How many there are.
    pub nodes: u16,
    /// The first port of node 1; each node has four.
    pub first_port: u16,
}

/// Ports of a broker, or of a node of a cluster: the one of its recipe and three more.
pub(super) const PORTS_PER_NODE: u16 = 4;

impl Seat {
    /// The first port of a node.
    #[must_use]
    pub fn port_of(&self, node: u16) -> u16 {
        self.first_port + (node - 1) * PORTS_PER_NODE
    }

    fn fill(&self, mut text: String) -> String {
        text = text.replace("{node}", &self.node.to_string());
        for node in 1..=self.nodes {
            let port = self.port_of(node);
            text = text.replace(&format!("{{n{node}.port}}"), &port.to_string());
            for step in 1..PORTS_PER_NODE {
                let name = format!("{{n{node}.port{step}}}");
                text = text.replace(&name, &(port + step).to_string());
            }
        }
        text
    }
}

impl Values {
    /// Replaces the placeholders.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        let parent = self.program.parent().unwrap_or(Path::new("."));
        let mut filled = text
            .replace("{program}", &self.program.to_string_lossy())
            .replace("{program_dir}", &parent.to_string_lossy())
            .replace("{dir}", &self.directory.to_string_lossy())
            .replace("{port}", &self.port.to_string())
            .replace("{cpu}", &self.cpu)
            .replace("{unbatched}", if self.unbatched { "--unbatched" } else { "" });
        for step in 1..=3 {
            filled = filled.replace(&format!("{{port{step}}}"), &(self.port + step).to_string());
        }
        self.seat.map_or(filled.clone(), |seat| seat.fill(filled))
    }

    /// A command with its placeholders replaced, pinned to the broker's CPU.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        format!("taskset -c {} {}", self.cpu, self.fill(command).trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values {
            program: "/opt/x/broker".into(),
            directory: "/tmp/d".into(),
            port: 2000,
            cpu: "3".into(),
            ..Values::default()
        }
    }

    #[test]
    fn every_recipe_is_well_formed_and_leaves_no_placeholder() {
        let of_ours = ["program", "program_dir", "dir", "port", "cpu", "unbatched", "n1.", "n3."];
        for name in Recipe::names() {
            let recipe = Recipe::built_in(name).unwrap().unwrap();
            let is_cluster = recipe.nodes > 1;
            let seat = Seat { node: 2, nodes: recipe.nodes, first_port: 2000 };
            let values = Values { seat: is_cluster.then_some(seat), ..values() };
            let info = recipe.info(name, String::new(), &values);
            let mut texts = vec![info.command];
            texts.extend(info.files.into_iter().map(|(_, text)| text));
            for text in texts {
                for word in of_ours {
                    assert!(!text.contains(&format!("{{{word}")), "{name}: {word} in {text}");
                }
            }
            assert!(!recipe.notes.is_empty() && !recipe.program.is_empty(), "{name}");
        }
    }

    #[test]
    fn placeholders_are_replaced() {
        let text = values().fill("{program_dir} {program} {dir} {port} {port2} {cpu}{unbatched}.");
        assert_eq!(text, "/opt/x /opt/x/broker /tmp/d 2000 2002 3.");
        assert_eq!(values().command("x -p {port} "), "taskset -c 3 x -p 2000");
    }

    #[test]
    fn nodes_know_the_ports_of_each_other() {
        let seat = Seat { node: 2, nodes: 3, first_port: 2000 };
        let values = Values { seat: Some(seat), port: 2004, ..values() };
        assert_eq!(values.fill("{node} {port} {n1.port} {n3.port2}"), "2 2004 2000 2010");
    }

    #[test]
    fn a_cluster_of_ringlane_is_at_the_level_that_is_asked_for() {
        let recipe = Recipe::ringlane_cluster("memory", 4).unwrap();
        assert_eq!(recipe.nodes, 3);
        let text = &recipe.files["ringlane.toml"];
        assert!(text.contains("level = \"memory\"") && !text.contains(DEFAULT_LEVEL), "{text}");
        assert!(text.contains("partitions = 4\n"), "{text}");
    }

    #[test]
    fn a_flag_is_a_recipe_or_a_command() {
        let (name, recipe) = Recipe::from_flag("mosquitto").unwrap();
        assert_eq!((name.as_str(), recipe.program.as_str()), ("mosquitto", "mosquitto"));
        let (name, recipe) = Recipe::from_flag("mine=./broker --port {port} --a=b").unwrap();
        assert_eq!(
            (name.as_str(), recipe.command.as_str()),
            ("mine", "./broker --port {port} --a=b")
        );
        let error = Recipe::from_flag("mosquito").unwrap_err().to_string();
        assert!(error.contains("there are ringlane, floor, mosquitto"), "{error}");
        assert!(Recipe::from_flag("mine=./broker").is_err());
        assert!(Recipe::from_flag("mine=/nowhere/x.toml").is_err());
    }

    #[test]
    fn what_is_missing_says_how_it_is_installed() {
        let mut recipe = Recipe::of_command("x");
        recipe.program = "no-such-program".into();
        let error = recipe.find_program("mosquitto").unwrap_err().to_string();
        assert!(error.contains("./scripts/peers.sh mosquitto"), "{error}");
    }
}
