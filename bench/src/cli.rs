//! The command line: flags named as `emqtt-bench` and `mosquitto_pub` name them.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ringlane_bench::fleet::Target;
use ringlane_bench::flow::{FlowOptions, Limit};
use ringlane_bench::meter::Meter;
use ringlane_bench::payload::PAYLOAD_BYTES_MIN;
use ringlane_bench::process::Process;
use ringlane_bench::shared::Stall;
use ringlane_mqtt::{QoS, Version};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

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
    /// N publishers, each with a subscriber of its own.
    Pairs(FlowArgs),
    /// N publishers, one subscriber.
    FanIn(FlowArgs),
    /// One publisher, N subscribers.
    FanOut(FlowArgs),
    /// A shared-subscription group of N members.
    Shared(SharedArgs),
    /// Rounds of N connections that connect, subscribe, receive one message and leave.
    Connections(ConnectionsArgs),
    /// One client identifier that connects from several sockets at once, again and again.
    Takeover(TakeoverArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CommonArgs {
    /// Broker host.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    host: String,
    /// Broker port.
    #[arg(short, long, default_value_t = 1883)]
    port: u16,
    /// MQTT version: 3 (3.1), 4 (3.1.1) or 5; also mqttv31, mqttv311, mqttv5.
    #[arg(short = 'V', long, default_value = "4", value_parser = version)]
    protocol_version: Version,
    /// What client identifiers begin with.
    #[arg(short = 'i', long, default_value = "bench")]
    pub(crate) id_prefix: String,
    /// What topics begin with.
    #[arg(short, long, default_value = "bench")]
    pub(crate) topic: String,
    /// Local address to connect from; give several for more than 28,000 connections.
    #[arg(long)]
    source: Vec<IpAddr>,
    /// Process of the broker: its CPU time, memory and descriptors are reported.
    #[arg(long)]
    pid: Option<u32>,
    /// The broker's Prometheus page: system calls per message are reported.
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// Pin this program to a CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Seconds without any arrival after which a run is over.
    #[arg(long, default_value_t = 10.0)]
    patience: f64,
}

#[derive(Args, Debug)]
pub(crate) struct FlowArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Pairs, publishers or subscribers.
    #[arg(short, long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// Quality of service: 0, 1 or 2.
    #[arg(short, long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// Payload bytes, at least 16.
    #[arg(short, long, default_value_t = 64)]
    size: usize,
    /// Unfinished messages per publisher; 0 sends as fast as the socket takes it. Default: as
    /// many as `--batch`.
    #[arg(short = 'W', long)]
    window: Option<u64>,
    /// Messages sent in one write.
    #[arg(short, long, default_value_t = 1)]
    batch: u64,
    /// Measured seconds.
    #[arg(short, long, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that, not measured.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Messages per publisher, instead of a duration.
    #[arg(short = 'n', long)]
    messages: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum StallArg {
    /// Reads, and acknowledges nothing.
    NoAck,
    /// Reads nothing.
    NoRead,
}

#[derive(Args, Debug)]
pub(crate) struct SharedArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Members of the group.
    #[arg(short, long, default_value_t = 8)]
    pub(crate) clients: usize,
    /// Publishers.
    #[arg(long, default_value_t = 2)]
    pub(crate) publishers: usize,
    /// Quality of service: 0, 1 or 2.
    #[arg(short, long, default_value = "1", value_parser = qos)]
    pub(crate) qos: QoS,
    /// Payload bytes, at least 16.
    #[arg(short, long, default_value_t = 64)]
    pub(crate) size: usize,
    /// Messages per publisher.
    #[arg(short = 'n', long, default_value_t = 20_000)]
    pub(crate) messages: u64,
    /// Unfinished messages per publisher.
    #[arg(short = 'W', long, default_value_t = 32)]
    pub(crate) window: u64,
    /// Receive Maximum of the members (MQTT 5).
    #[arg(long, default_value_t = 16)]
    pub(crate) receive_maximum: u16,
    /// Members that stall.
    #[arg(long, default_value_t = 0)]
    pub(crate) stalled: usize,
    /// How they stall.
    #[arg(long, value_enum, default_value = "no-ack")]
    stall: StallArg,
    /// Members that are cut off half-way.
    #[arg(long, default_value_t = 0)]
    pub(crate) killed: usize,
}

#[derive(Args, Debug)]
pub(crate) struct ConnectionsArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Connections of a round.
    #[arg(short, long, default_value_t = 10_000)]
    pub(crate) clients: usize,
    /// Rounds, warm-up included.
    #[arg(short = 'R', long, default_value_t = 6)]
    pub(crate) rounds: usize,
    /// Rounds before the memory to compare with is read.
    #[arg(long, default_value_t = 2)]
    pub(crate) warm_up_rounds: usize,
    /// Quality of service: 0, 1 or 2.
    #[arg(short, long, default_value = "1", value_parser = qos)]
    pub(crate) qos: QoS,
}

#[derive(Args, Debug)]
pub(crate) struct TakeoverArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Rounds.
    #[arg(short = 'R', long, default_value_t = 3000)]
    pub(crate) rounds: u64,
    /// New sockets per round.
    #[arg(long, default_value_t = 2)]
    pub(crate) sockets: usize,
    /// Publishers.
    #[arg(long, default_value_t = 4)]
    pub(crate) publishers: usize,
    /// Other subscribers of the same messages.
    #[arg(short, long, default_value_t = 8)]
    pub(crate) clients: usize,
    /// Unfinished messages per publisher.
    #[arg(short = 'W', long, default_value_t = 8)]
    pub(crate) window: u64,
}

impl CommonArgs {
    pub(crate) fn target(&self) -> Result<Target> {
        let address: SocketAddr = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .with_context(|| format!("host {:?}", self.host))?
            .next()
            .with_context(|| format!("host {:?} has no address", self.host))?;
        Ok(Target { address, version: self.protocol_version, sources: self.source.clone() })
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter { process: self.process(), metrics_url: self.metrics.clone() }
    }

    pub(crate) fn process(&self) -> Option<Process> {
        self.pid.map(Process)
    }

    pub(crate) fn patience(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.patience).context("--patience")
    }
}

impl FlowArgs {
    pub(crate) fn options(&self) -> Result<FlowOptions> {
        ensure!(self.clients > 0, "--clients must be at least 1");
        ensure!(self.batch > 0, "--batch must be at least 1");
        check_size(self.size)?;
        let seconds = |value, name| Duration::try_from_secs_f64(value).context(name);
        let limit = match self.messages {
            Some(count) => Limit::Messages(count),
            None => Limit::Time {
                warm_up: seconds(self.warm_up, "--warm-up")?,
                run: seconds(self.duration, "--duration")?,
            },
        };
        let window = self.window.unwrap_or(self.batch);
        ensure!(
            window == 0 || window >= self.batch,
            "--batch {} does not fit --window {window}",
            self.batch
        );
        Ok(FlowOptions {
            qos: self.qos,
            payload_bytes: self.size,
            window,
            batch: self.batch,
            limit,
            patience: self.common.patience()?,
            meter: self.common.meter(),
        })
    }
}

impl SharedArgs {
    pub(crate) fn stall(&self) -> Stall {
        match self.stall {
            StallArg::NoAck => Stall::NoAcknowledgement,
            StallArg::NoRead => Stall::NoRead,
        }
    }
}

pub(crate) fn check_size(size: usize) -> Result<()> {
    ensure!(size >= PAYLOAD_BYTES_MIN, "--size must be at least {PAYLOAD_BYTES_MIN}");
    Ok(())
}

fn version(text: &str) -> Result<Version> {
    Ok(match text {
        "3" | "31" | "mqttv31" => Version::V31,
        "4" | "311" | "mqttv311" => Version::V311,
        "5" | "mqttv5" => Version::V5,
        _ => bail!("not one of 3, 4, 5, mqttv31, mqttv311, mqttv5"),
    })
}

fn qos(text: &str) -> Result<QoS> {
    text.parse().ok().and_then(QoS::from_u8).context("not one of 0, 1, 2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_those_that_users_know() {
        let line =
            ["x", "pairs", "-h", "::1", "-p", "1", "-c", "3", "-V", "5", "-q", "2", "-s", "20"];
        let Command::Pairs(args) = Cli::parse_from(line).command else { panic!("not pairs") };
        let options = args.options().unwrap();
        assert_eq!((options.qos, options.payload_bytes, options.window), (QoS::ExactlyOnce, 20, 1));
        assert_eq!(args.common.target().unwrap().address, "[::1]:1".parse().unwrap());
    }

    #[test]
    fn a_window_defaults_to_the_batch_and_must_hold_it() {
        let options = |line: &[&str]| {
            let Command::Pairs(args) = Cli::parse_from(line).command else { panic!("not pairs") };
            args.options()
        };
        assert_eq!(options(&["x", "pairs", "-b", "16"]).unwrap().window, 16);
        assert!(options(&["x", "pairs", "-b", "16", "-W", "8"]).is_err());
        assert!(options(&["x", "pairs", "-s", "15"]).is_err());
    }
}
