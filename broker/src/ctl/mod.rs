//! `ringlane ctl`: what a running broker keeps for its clients, and deleting it.
//!
//! It talks to the broker through the operator's socket (`control::ctl`).

mod client;
pub(crate) mod glob;
mod print;
pub(crate) mod rows;
pub(crate) mod table;

use crate::config::parse_duration;
use clap::{Args, Subcommand};
use client::Client;
use rows::{Request, SessionChoice, SubscriptionChoice};
use std::fmt;
use std::path::{Path, PathBuf};

/// What `ringlane ctl` is told.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    #[command(subcommand)]
    command: CtlCommand,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Print JSON, one line per row
    #[arg(long, global = true)]
    json: bool,
}

/// Which broker.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// Configuration file (TOML) of the broker
    #[arg(short, long, value_name = "FILE", env = "RINGLANE_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the broker's data (data_dir)
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// The operator's socket; without it control.socket, which is ctl.sock in the data directory
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) socket: Option<PathBuf>,
}

/// Looks at what a running broker keeps, and deletes it.
#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// List sessions: what they cost, and what they are owed; show one; end them
    Sessions(SessionsArgs),
    /// List shared-subscription groups: members, and what they are owed
    Groups,
    /// List subscriptions
    Subscriptions {
        /// Only those of this client
        #[arg(long, value_name = "CLIENT")]
        client: Option<String>,
        /// Only those whose filter matches this topic name
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
    },
    /// List, show and delete retained messages
    Retained {
        #[command(subcommand)]
        action: RetainedAction,
    },
    /// List streams, and the logs of the partitions: bytes, offsets, and who keeps them
    Streams,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct SessionsArgs {
    #[command(subcommand)]
    action: Option<SessionsAction>,
    #[command(flatten)]
    choose: Choose,
}

#[derive(Debug, Subcommand)]
enum SessionsAction {
    /// Show one session and its subscriptions
    Show {
        /// Its client identifier
        #[arg(value_name = "CLIENT")]
        client: String,
    },
    /// End sessions, for good: subscriptions and messages that they are owed go with them. Without
    /// names, every session that is chosen; then only with --yes
    End {
        /// Their client identifiers
        #[arg(value_name = "CLIENT")]
        clients: Vec<String>,
        #[command(flatten)]
        choose: Choose,
        /// Only say which
        #[arg(long)]
        dry_run: bool,
        /// End all that are chosen
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Debug, Args)]
struct Choose {
    /// Client identifiers that match this pattern: * stands for any characters, ? for one
    #[arg(long, value_name = "PATTERN")]
    filter: Option<String>,
    /// Only those with a connection
    #[arg(long)]
    connected: bool,
    /// Only those without a connection
    #[arg(long, conflicts_with = "connected")]
    absent: bool,
    /// Only those without a connection for this long, such as 12h or 30d
    #[arg(long, value_name = "TIME", conflicts_with = "connected", value_parser = parse_secs)]
    absent_for: Option<u64>,
    /// Only those that are owed messages
    #[arg(long)]
    owed: bool,
}

#[derive(Debug, Subcommand)]
enum RetainedAction {
    /// List retained messages
    List {
        /// Only topics that match this filter; # leaves out those that begin with $
        #[arg(value_name = "FILTER", default_value = "#")]
        filter: String,
    },
    /// Show one retained message with its payload
    Show {
        #[arg(value_name = "TOPIC")]
        topic: String,
        /// Print the payload alone, as it is
        #[arg(long, conflicts_with = "json")]
        raw: bool,
    },
    /// Delete a topic's retained message, as an empty retained message would; or all that match a
    /// filter, then only with --yes
    Delete {
        #[arg(value_name = "TOPIC|FILTER")]
        filter: String,
        /// Only say which
        #[arg(long)]
        dry_run: bool,
        /// Delete all that match
        #[arg(long)]
        yes: bool,
    },
}

/// Why a command failed. Each says what to do.
#[derive(Debug)]
pub(crate) enum CtlError {
    /// Whoever read the output has gone (`| head`).
    Closed,
    /// Something was not deleted, which has been printed.
    NotAll,
    /// Anything else.
    Failed(String),
}

impl fmt::Display for CtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the output was closed"),
            Self::NotAll => f.write_str("not all of it was deleted"),
            Self::Failed(message) => f.write_str(message),
        }
    }
}

impl Choose {
    fn choice(&self) -> SessionChoice {
        let connected = match (self.connected, self.absent) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        let (clients, absent_secs) = (self.filter.clone(), self.absent_for);
        SessionChoice { clients, connected, absent_secs, owed: self.owed }
    }
}

impl CtlArgs {
    /// Does it, through the socket that flags and configuration gave.
    ///
    /// # Errors
    /// [`CtlError`].
    pub(crate) fn run(&self, socket: &Path) -> Result<(), CtlError> {
        self.check()?;
        let request = self.request();
        let mut printer = print::printer(&request, self.json, self.raw());
        Client::new(socket).ask(&request, &mut |line| printer.line(line))?;
        printer.end()?;
        if let Some(hint) = self.hint() {
            print::note(hint);
        }
        Ok(())
    }

    /// What the types of the arguments cannot say.
    fn check(&self) -> Result<(), CtlError> {
        let CtlCommand::Sessions(SessionsArgs { action: Some(action), .. }) = &self.command else {
            return Ok(());
        };
        match action {
            SessionsAction::End { clients, choose, .. }
                if clients.is_empty() && choose.choice() == SessionChoice::default() =>
            {
                let message = "which sessions? Name clients, or choose with --filter, --absent-for, \
                               --absent, --connected or --owed";
                Err(CtlError::Failed(message.to_owned()))
            }
            SessionsAction::End { .. } | SessionsAction::Show { .. } => Ok(()),
        }
    }

    fn request(&self) -> Request {
        match &self.command {
            CtlCommand::Sessions(SessionsArgs { action: None, choose }) => {
                Request::Sessions { choose: choose.choice() }
            }
            CtlCommand::Sessions(SessionsArgs { action: Some(action), .. }) => match action {
                SessionsAction::Show { client } => Request::Session { client_id: client.clone() },
                SessionsAction::End { clients, choose, .. } => Request::EndSessions {
                    clients: clients.clone(),
                    choose: choose.choice(),
                    dry_run: self.is_dry_run(),
                },
            },
            CtlCommand::Groups => Request::Groups,
            CtlCommand::Subscriptions { client, topic } => Request::Subscriptions {
                choose: SubscriptionChoice { client_id: client.clone(), topic: topic.clone() },
            },
            CtlCommand::Retained { action } => match action {
                RetainedAction::List { filter } => Request::Retained { filter: filter.clone() },
                RetainedAction::Show { topic, .. } => {
                    Request::RetainedMessage { topic: topic.clone() }
                }
                RetainedAction::Delete { filter, .. } => {
                    Request::ClearRetained { filter: filter.clone(), dry_run: self.is_dry_run() }
                }
            },
            CtlCommand::Streams => Request::Streams,
        }
    }

    /// Names are taken at their word; what is chosen wants a yes.
    fn is_dry_run(&self) -> bool {
        let (is_named, dry_run, yes) = match &self.command {
            CtlCommand::Sessions(SessionsArgs {
                action: Some(SessionsAction::End { clients, dry_run, yes, .. }),
                ..
            }) => (!clients.is_empty(), *dry_run, *yes),
            CtlCommand::Retained { action: RetainedAction::Delete { filter, dry_run, yes } } => {
                (!filter.contains(['+', '#']), *dry_run, *yes)
            }
            _ => return false,
        };
        dry_run || !(is_named || yes)
    }

    fn raw(&self) -> bool {
        matches!(
            &self.command,
            CtlCommand::Retained { action: RetainedAction::Show { raw: true, .. } }
        )
    }

    fn hint(&self) -> Option<&'static str> {
        self.is_dry_run().then_some("nothing was deleted; say --yes, without --dry-run, to do it")
    }
}

fn parse_secs(text: &str) -> Result<u64, String> {
    let duration = parse_duration(text);
    duration
        .map(|duration| duration.as_secs())
        .ok_or_else(|| format!("{text:?} is no time: 12h, 30d"))
}
