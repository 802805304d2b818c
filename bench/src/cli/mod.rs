//! The command line: flags named as `emqtt-bench` and `mosquitto_pub` name them. One file per
//! command; `common` has the flags that all of them have.

pub(crate) mod arrival;
pub(crate) mod churn;
pub(crate) mod common;
pub(crate) mod compare;
pub(crate) mod connect_storm;
pub(crate) mod end_to_end;
pub(crate) mod floor;
pub(crate) mod flow;
pub(crate) mod idle;
pub(crate) mod ledger;
pub(crate) mod log_append;
pub(crate) mod output;
pub(crate) mod probe;
pub(crate) mod publishers;
pub(crate) mod replicate;
pub(crate) mod retained_storm;
pub(crate) mod search;
pub(crate) mod shared;
pub(crate) mod takeover;
pub(crate) mod throughput;
pub(crate) mod wildcards;

use churn::ChurnArgs;
use clap::{Parser, Subcommand};
use common::CommonArgs;
use compare::{CompareArgs, ReportArgs};
use connect_storm::ConnectStormArgs;
use end_to_end::EndToEndCommand;
use floor::FloorArgs;
use flow::OpenArgs;
use idle::IdleArgs;
use ledger::LedgerArgs;
use log_append::LogAppendArgs;
use output::OutputArgs;
use publishers::PublishersArgs;
use replicate::ReplicateArgs;
use retained_storm::RetainedStormArgs;
use std::time::Duration;
use takeover::TakeoverArgs;
use throughput::ThroughputCommand;
use wildcards::WildcardsArgs;

/// Load and latency measurement for MQTT brokers. Every message is checked for loss, duplicates
/// and order; the exit code is 0 only if every check held.
#[derive(Parser, Debug)]
#[command(name = "ringlane-bench", version, disable_help_flag = true)]
pub(crate) struct Cli {
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help, global = true)]
    help: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// As many messages as the broker takes: a closed loop with a window per publisher.
    #[command(subcommand)]
    Throughput(ThroughputCommand),
    /// N clients that connect at once, or at a rate: connections/s, latency, CPU for each.
    ConnectStorm(ConnectStormArgs),
    /// N connections that do nothing: memory of each, in the broker and in the kernel.
    IdleConnections(IdleArgs),
    /// N retained messages, then K subscribers that want all of them at once.
    RetainedStorm(RetainedStormArgs),
    /// What a publish costs among 1,000, 10,000, ... subscriptions that do not match.
    Wildcards(WildcardsArgs),
    /// What a message costs when few, or very many, publishers share the same rate.
    Publishers(PublishersArgs),
    /// Latency from publisher to subscriber on a fixed schedule: an open loop, counted from the
    /// moment that the schedule says.
    #[command(subcommand)]
    EndToEnd(EndToEndCommand),
    /// Latency from publisher to acknowledgement: PUBACK, or PUBREC and PUBCOMP. On a fixed
    /// schedule, or with `-W` alone in a closed loop.
    PublishAck(OpenArgs),
    /// Rounds of N connections that connect, subscribe, receive one message and leave.
    Churn(ChurnArgs),
    /// One client identifier that connects from several sockets at once, again and again.
    Takeover(TakeoverArgs),
    /// The ledger of acknowledged writes: a broker is killed, or loses power, again and again, and is
    /// held to what it had acknowledged. Exit code 0: every check held; 1: one did not; 2: nothing
    /// can be said.
    Ledger(LedgerArgs),
    /// A relay that frames and forwards QoS 0 messages and does nothing else: what the kernel's
    /// sockets cost at least, for comparison.
    Floor(FloorArgs),
    /// The broker's log without a broker: appends, rounds of write and sync, and beside them plain
    /// calls of the same size.
    LogAppend(LogAppendArgs),
    /// Two or more brokers under the same workloads, in interleaved rounds.
    Compare(CompareArgs),
    /// Clusters of three nodes on this host, at each level and beside replicated peers, in interleaved rounds: time
    /// to PUBACK, and what a message costs the leader, a follower, and all nodes together.
    Replicate(ReplicateArgs),
    /// Draws what `compare` or a suite wrote with --json.
    Report(ReportArgs),
}

impl Command {
    /// The flags of the commands that load a broker.
    pub(crate) fn common(&self) -> Option<&CommonArgs> {
        match self {
            Self::Throughput(command) => Some(command.common()),
            Self::ConnectStorm(args) => Some(&args.arrival.common),
            Self::IdleConnections(args) => Some(&args.arrival.common),
            Self::RetainedStorm(args) => Some(&args.common),
            Self::Wildcards(args) => Some(&args.probe.common),
            Self::Publishers(args) => Some(&args.probe.common),
            Self::EndToEnd(command) => Some(command.common()),
            Self::PublishAck(args) => Some(&args.load.common),
            Self::Churn(args) => Some(&args.common),
            Self::Takeover(args) => Some(&args.common),
            Self::Ledger(_)
            | Self::LogAppend(_)
            | Self::Floor(_)
            | Self::Compare(_)
            | Self::Replicate(_)
            | Self::Report(_) => None,
        }
    }

    /// Where the report goes.
    pub(crate) fn output(&self) -> OutputArgs {
        match self {
            Self::Ledger(args) => args.output.clone(),
            Self::LogAppend(args) => args.output.clone(),
            _ => self.common().map(|common| common.output.clone()).unwrap_or_default(),
        }
    }

    /// About how long it runs; zero if its flags do not say.
    pub(crate) fn length(&self) -> Duration {
        match self {
            Self::Throughput(command) => command.length(),
            Self::EndToEnd(command) => command.length(),
            Self::PublishAck(args) => args.load.length(),
            _ => Duration::ZERO,
        }
    }

    /// The CPU to pin this program to.
    pub(crate) fn cpu(&self) -> Option<usize> {
        match self {
            Self::Floor(args) => args.cpu,
            Self::LogAppend(args) => args.cpu,
            Self::Compare(args) => Some(args.cpu()),
            Self::Replicate(args) => Some(args.cpu),
            _ => self.common().and_then(|common| common.cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::flow::FlowArgs;
    use super::*;
    use ringlane_bench::flow::Pace;
    use ringlane_mqtt::QoS;

    fn pairs(line: &[&str]) -> FlowArgs {
        let command = Cli::parse_from(line).command;
        let Command::Throughput(ThroughputCommand::Pairs(args)) = command else {
            panic!("not pairs")
        };
        args
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_those_that_users_know() {
        let line = [
            "x",
            "throughput",
            "pairs",
            "-h",
            "::1",
            "-p",
            "1",
            "-c",
            "3",
            "-V",
            "5",
            "-q",
            "2",
            "-s",
            "20",
        ];
        let args = pairs(&line);
        let options = args.options().unwrap();
        assert_eq!((options.qos, options.payload_bytes, options.window), (QoS::ExactlyOnce, 20, 1));
        assert_eq!(args.load.common.target().unwrap().address, "[::1]:1".parse().unwrap());
    }

    #[test]
    fn a_window_defaults_to_the_batch_and_must_hold_it() {
        let options = |line: &[&str]| {
            let args = pairs(line);
            args.options()
        };
        assert_eq!(options(&["x", "throughput", "pairs", "-b", "16"]).unwrap().window, 16);
        assert!(options(&["x", "throughput", "pairs", "-b", "16", "-W", "8"]).is_err());
        assert!(options(&["x", "throughput", "pairs", "-s", "15"]).is_err());
    }

    #[test]
    fn a_rate_or_an_interval_makes_the_schedule() {
        let rate = |line: &[&str]| {
            let command = Cli::parse_from(line).command;
            let Command::PublishAck(args) = command else { panic!("not publish-ack") };
            args.acknowledged().map(|options| (options.pace, options.qos, options.window))
        };
        let line = ["x", "publish-ack", "-c", "50", "-I", "10", "-q", "2"];
        assert_eq!(rate(&line).unwrap(), (Pace::Rate(5000.0), QoS::ExactlyOnce, 0));
        let line = ["x", "publish-ack", "--rate", "20000"];
        assert_eq!(rate(&line).unwrap(), (Pace::Rate(20_000.0), QoS::AtLeastOnce, 0));
        let line = ["x", "publish-ack", "-W", "8"];
        assert_eq!(rate(&line).unwrap(), (Pace::Window, QoS::AtLeastOnce, 8));
        assert!(rate(&["x", "publish-ack", "-q", "0"]).is_err());
        assert!(rate(&["x", "publish-ack", "--rate", "0"]).is_err());
    }
}
