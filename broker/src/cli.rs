//! The command line.
//!
//! Exit codes: 0 = done, 1 = failed, 2 = wrong usage (clap's), 3 = wrong configuration (as
//! Mosquitto's, so that scripts keep working).

use crate::cluster::show::ClusterArgs;
use crate::config::{
    Assignment, Config, Cores, Layers, Loaded, LogFormat, LogLevel, Source, TransportSetting, load,
};
use crate::ctl::{CtlArgs, CtlError};
use crate::log_tool::{LogCommand, ToolError};
use crate::{doctor, startup};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use toml::Value;

const EXIT_FAILED: u8 = 1;
const EXIT_CONFIG: u8 = 3;

/// Ringlane: a thread-per-core MQTT broker.
#[derive(Debug, Parser)]
#[command(name = "ringlane", version, args_conflicts_with_subcommands = true)]
#[command(about = "A thread-per-core MQTT broker on io_uring; without a command it serves")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker (the default)
    Serve(Settings),
    /// Check the configuration and print it with the source of every value
    CheckConfig(Settings),
    /// Print what this host gives and lacks, and what to change
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Settings,
    },
    /// Look at the commit log of a data directory, in use or not
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// List what a running broker keeps for its clients, and delete it
    Ctl(CtlArgs),
    /// Show the cluster as etcd has it: its nodes, and who leads
    Cluster(ClusterArgs),
    /// Print the version
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Flags that set configuration values; they win over environment and file.
#[derive(Debug, Default, Args)]
struct Settings {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE", env = "RINGLANE_CONFIG")]
    config: Option<PathBuf>,
    /// Port of the MQTT listener (listeners.tcp.bind keeps its address)
    #[arg(short, long)]
    port: Option<u16>,
    /// Directory of the node's data (data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// CPUs that get a pinned thread: auto, or a list such as 2,3,6 or 0-3 (runtime.cores)
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// Socket driver (runtime.transport)
    #[arg(long, value_enum)]
    transport: Option<TransportSetting>,
    /// Least important log lines that are written (log.level)
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Form of log lines (log.format)
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Settings {
    fn assignments(&self) -> Vec<Assignment> {
        let data_dir = self.data_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
        let flags = [
            ("data_dir", "--data-dir", data_dir),
            ("runtime.cores", "--cores", self.cores.as_ref().map(ToString::to_string)),
            ("runtime.transport", "--transport", self.transport.map(value_name)),
            ("log.level", "--log-level", self.log_level.map(value_name)),
            ("log.format", "--log-format", self.log_format.map(value_name)),
        ];
        let set = flags.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value?)));
        set.map(|(key, flag, value)| Assignment {
            key: key.to_owned(),
            value: Value::String(value),
            source: Source::Flag(flag),
        })
        .collect()
    }

    /// Reads the file and merges it with the environment and these flags.
    fn load(&self) -> Result<Loaded, String> {
        let file = match &self.config {
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some((path.clone(), text)),
                Err(error) => return Err(format!("{}: cannot read it: {error}", path.display())),
            },
            None => None,
        };
        // A variable that is no UTF-8 is none of ours.
        let text = |os: std::ffi::OsString| os.into_string().ok();
        let variables = std::env::vars_os();
        let environment =
            variables.filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
        let layers = Layers { file, environment, flags: self.assignments(), port: self.port };
        load(&layers).map_err(|errors| errors.to_string())
    }
}

fn value_name<T: ValueEnum>(value: T) -> String {
    value.to_possible_value().map(|name| name.get_name().to_owned()).unwrap_or_default()
}

/// Runs the program as the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve(cli.settings)) {
        Command::Serve(settings) => with_config(&settings, |loaded| serve(&loaded.config)),
        Command::CheckConfig(settings) => with_config(&settings, |loaded| {
            print(&loaded.render());
            ExitCode::SUCCESS
        }),
        Command::Doctor { json, settings } => with_config(&settings, |loaded| {
            let report = doctor::examine(&loaded.config);
            print(&if json { report.json() } else { report.text() });
            ExitCode::from(if report.has_failures() { EXIT_FAILED } else { 0 })
        }),
        Command::Log { command } => log(&command),
        Command::Ctl(args) => ctl(&args),
        Command::Cluster(args) => cluster(&args),
        Command::Version { json } => {
            print(&version(json));
            ExitCode::SUCCESS
        }
    }
}

fn with_config(settings: &Settings, run: impl FnOnce(&Loaded) -> ExitCode) -> ExitCode {
    match settings.load() {
        Ok(loaded) => run(&loaded),
        Err(error) => fail(EXIT_CONFIG, &error),
    }
}

/// `ringlane log`: its errors are those of the tool, and no log line is written.
fn log(command: &LogCommand) -> ExitCode {
    let place = command.place();
    let settings = Settings {
        config: place.config.clone(),
        data_dir: place.data_dir.clone(),
        ..Settings::default()
    };
    with_config(&settings, |loaded| match command.run(&loaded.config.data_dir) {
        Ok(()) | Err(ToolError::Closed) => ExitCode::SUCCESS,
        Err(ToolError::Damaged) => ExitCode::from(EXIT_FAILED),
        Err(error) => fail(EXIT_FAILED, &error),
    })
}

/// `ringlane ctl`: the configuration says where the broker's socket is.
fn ctl(args: &CtlArgs) -> ExitCode {
    let place = &args.place;
    let settings = Settings {
        config: place.config.clone(),
        data_dir: place.data_dir.clone(),
        ..Settings::default()
    };
    let run = |socket: &Path| match args.run(socket) {
        Ok(()) | Err(CtlError::Closed) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILED, &error),
    };
    if let Some(socket) = &place.socket {
        return run(socket);
    }
    with_config(&settings, |loaded| {
        match loaded.config.control.socket_path(&loaded.config.data_dir) {
            Some(socket) => run(&socket),
            None => fail(EXIT_FAILED, &"control.socket is empty: that broker has no socket"),
        }
    })
}

/// `ringlane cluster`: the configuration of a node says which etcd is asked.
fn cluster(args: &ClusterArgs) -> ExitCode {
    let settings = Settings { config: args.config.clone(), ..Settings::default() };
    with_config(&settings, |loaded| match args.run(&loaded.config.cluster) {
        Ok(()) | Err(CtlError::Closed) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILED, &error),
    })
}

fn serve(config: &Config) -> ExitCode {
    match startup::serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_configuration() => fail(EXIT_CONFIG, &error),
        Err(error) => fail(EXIT_FAILED, &error),
    }
}

fn fail(code: u8, error: &dyn Display) -> ExitCode {
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "Error: {error}");
    ExitCode::from(code)
}

fn print(text: &str) {
    // A reader that has gone (`| head`) is no failure of ours.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    commit: Option<&'static str>,
    architecture: &'static str,
    os: &'static str,
    profile: &'static str,
}

fn version(json: bool) -> String {
    let version = Version {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("RINGLANE_COMMIT"),
        architecture: std::env::consts::ARCH,
        os: std::env::consts::OS,
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
    };
    if json {
        return serde_json::to_string(&version).unwrap_or_default();
    }
    let commit = version.commit.map(|commit| format!(", {commit}")).unwrap_or_default();
    format!(
        "{} {} ({}-{}, {}{commit})",
        version.name, version.version, version.architecture, version.os, version.profile
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        for line in [["ringlane", "-p", "1884"].as_slice(), &["ringlane", "serve", "-p", "1884"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            let settings = match cli.command {
                Some(Command::Serve(settings)) => settings,
                None => cli.settings,
                Some(other) => panic!("{other:?}"),
            };
            assert_eq!(settings.port, Some(1884), "{line:?}");
        }
    }

    #[test]
    fn flags_become_values_with_their_source() {
        let line = "ringlane serve --cores 2-3,6 --transport epoll --log-format json --data-dir d";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Some(Command::Serve(settings)) = cli.command else { panic!("not serve") };
        let layers = Layers { flags: settings.assignments(), ..Layers::default() };
        let loaded = load(&layers).unwrap();
        assert_eq!(loaded.config.runtime.cores, Cores::List(vec![2, 3, 6]));
        assert_eq!(loaded.config.runtime.transport, TransportSetting::Epoll);
        assert_eq!(loaded.config.log.format, LogFormat::Json);
        assert_eq!(loaded.config.data_dir, PathBuf::from("d"));
        assert_eq!(loaded.source("runtime.cores"), Source::Flag("--cores"));
        assert_eq!(loaded.source("log.level"), Source::Default);
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in ["ringlane --cores x", "ringlane -p 70000", "ringlane --transport dpdk"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
