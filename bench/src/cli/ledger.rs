//! The flags of `ledger`.

use super::common::{qos, version};
use super::output::OutputArgs;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use ringlane_bench::compare::Recipe;
use ringlane_bench::durability::{
    ClusterHost, DiskKind, Fault, Level, Options, OutsideHost, PROOF_BYTES, RecipeHost,
};
use ringlane_mqtt::{QoS, Version};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What happens in each cycle.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum FaultArg {
    /// kill -9.
    Kill,
    /// The file system stops without a flush, kill -9, remount. Needs root and loop devices.
    PowerLoss,
    /// SIGTERM.
    Term,
    /// The file system is full for a while, and the broker has to go on without a restart. Needs root
    /// and loop devices.
    FullDisk,
    /// The disk takes writes and fails when they are written back; then kill -9, and a start on a
    /// disk that is well. Needs root and loop devices.
    WriteError,
    /// Nothing happens to the broker; the clients' connections are reset.
    None,
}

#[derive(Args, Debug)]
pub(crate) struct LedgerArgs {
    /// The broker: the name of a recipe (ringlane-disk, mosquitto-disk, mosquitto-safest, nats-disk,
    /// nats-sync, rabbitmq-disk, ...), NAME=RECIPE.toml, or NAME='COMMAND with {port}', which may
    /// also use {dir} and {cpu}.
    #[arg(long, value_name = "NAME[=COMMAND]", default_value = "ringlane-disk")]
    pub(crate) broker: String,
    /// Faults to strike with.
    #[arg(short = 'n', long, default_value_t = 20)]
    cycles: u32,
    /// Where everything is drawn from; drawn from the clock, and printed, if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// What happens in each cycle.
    #[arg(long, value_enum, default_value = "kill")]
    fault: FaultArg,
    /// MQTT version: 4 (3.1.1) or 5; also mqttv311, mqttv5.
    #[arg(short = 'V', long, default_value = "5", value_parser = version)]
    protocol_version: Version,
    /// Qualities of service to publish with. Default: 1,2, or 1 where the recipe has no 2.
    #[arg(short, long, value_delimiter = ',', value_parser = qos)]
    qos: Vec<QoS>,
    /// Publishers.
    #[arg(long, default_value_t = 4)]
    publishers: u32,
    /// Topics of each publisher.
    #[arg(long, default_value_t = 3)]
    topics: u32,
    /// Unanswered messages of each publisher.
    #[arg(short = 'W', long, default_value_t = 8)]
    window: usize,
    /// Subscribers: one on everything, one on `#`, two that are away at times, a slow one, one that
    /// unsubscribes; then again from the first.
    #[arg(long, default_value_t = 6)]
    subscribers: usize,
    /// Bytes of a payload.
    #[arg(short, long, default_value_t = 64)]
    size: usize,
    /// The fault comes after some answers to publishers: at least, at most.
    #[arg(long, value_names = ["LEAST", "MOST"], num_args = 2, default_values_t = [20, 400])]
    answers: Vec<u64>,
    /// Seconds that the broker may take to go on.
    #[arg(long, default_value_t = 20.0)]
    patience: f64,
    /// Seconds without a delivery after which what is missing in a cycle is given up.
    #[arg(long, default_value_t = 2.0)]
    silence: f64,
    /// Seconds after the last start within which promised wills must come; 0: no wills.
    #[arg(long, default_value_t = 15.0)]
    will_wait: f64,
    /// Milliseconds: in one of four cycles the fault comes again at most so long after the start, up
    /// to five times in a row; 0: never.
    #[arg(long, default_value_t = 60)]
    stumble: u64,
    /// Names of failpoints, for a broker that has them (Ringlane with the feature `failpoints`): after
    /// each fault the broker is started to end at one of them, under load.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    failpoints: Vec<String>,
    /// Leave the broker's directory when a check failed.
    #[arg(long)]
    pub(crate) keep_directory: bool,
    /// Go on after a finding.
    #[arg(long)]
    keep_going: bool,
    /// Write the history, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Where the broker's directory is made. Default: the directory for temporary files.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Size of the file system for power-loss and full-disk, in MiB; for write-error what a disk of 256
    /// MiB can hold.
    #[arg(long, default_value_t = 512)]
    disk_mib: u64,
    /// For power loss: start the broker once before, and make durable what that leaves. For brokers whose
    /// first start is not safe by itself.
    #[arg(long)]
    pub(crate) settle: bool,
    /// A cluster of so many nodes on this host, with an etcd (which must be installed). kill and term
    /// strike the leader, and each fourth kill all nodes.
    #[arg(long, value_name = "NODES", conflicts_with = "settle")]
    pub(crate) cluster: Option<u16>,
    /// When a cluster acknowledges, which says what it is held to. What one node promises is held to --fault term or none.
    #[arg(long, value_enum, default_value = "quorum_disk", requires = "cluster")]
    level: Level,
    /// Hold a broker that runs elsewhere to what it acknowledges: its address, or those of its nodes, which clients try in
    /// turn. It must have nothing of an earlier run.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "ADDRESS,...",
        conflicts_with_all = ["broker", "cluster", "fault", "failpoints", "settle"]
    )]
    pub(crate) at: Vec<SocketAddr>,
    /// What strikes that broker in each cycle, a command for sh. Clients go on while the fault lasts; without it only their
    /// connections are reset.
    #[arg(long, value_name = "COMMAND", requires = "at")]
    strike: Option<String>,
    /// What makes it good again.
    #[arg(long, value_name = "COMMAND", requires = "strike")]
    heal: Option<String>,
    /// CPUs of the broker, such as 0,1; nodes of a cluster get one each, in turn.
    #[arg(long, default_value = "0")]
    broker_cpus: String,
    /// The first of four ports for the broker, or for each node, and two for etcd.
    #[arg(long, default_value_t = 28_930)]
    first_port: u16,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl LedgerArgs {
    /// The broker's name and recipe.
    pub(crate) fn recipe(&self) -> Result<(String, Recipe)> {
        Recipe::from_flag(&self.broker)
    }

    pub(crate) fn options(&self, recipe: &Recipe) -> Result<Options> {
        anyhow::ensure!(self.size >= PROOF_BYTES, "--size must be at least {PROOF_BYTES}");
        let seconds =
            |value: f64, flag: &'static str| Duration::try_from_secs_f64(value).context(flag);
        let both = [QoS::AtLeastOnce, QoS::ExactlyOnce];
        let can = both.into_iter().filter(|qos| *qos as u8 <= recipe.qos_max).collect();
        Ok(Options {
            seed: self.seed.unwrap_or_else(seed_of_clock),
            cycles: self.cycles,
            fault: self.fault(),
            version: self.protocol_version,
            qos: if self.qos.is_empty() { can } else { self.qos.clone() },
            publishers: self.publishers,
            topics: self.topics,
            window: self.window,
            subscribers: self.subscribers,
            is_shared: !self.at.is_empty(),
            payload_bytes: self.size,
            answers: (self.answers[0], self.answers[1]),
            patience: seconds(self.patience, "--patience")?,
            silence: seconds(self.silence, "--silence")?,
            will_wait: seconds(self.will_wait, "--will-wait")?,
            stumble: Duration::from_millis(self.stumble),
            failpoints: self.failpoints.clone(),
            keep_going: self.keep_going,
            history: self.history.clone(),
            ..Options::default()
        })
    }

    /// The broker in a directory of its own below `room`, which must be gone at the end.
    pub(crate) fn host(&self, name: &str, recipe: Recipe, room: PathBuf) -> Result<RecipeHost> {
        let bytes = self.disk_mib << 20;
        let disk = match self.fault() {
            Fault::PowerLoss | Fault::FullDisk => Some((DiskKind::Whole, bytes)),
            Fault::WriteError => Some((DiskKind::Thin, bytes)),
            Fault::Kill | Fault::Term | Fault::Command | Fault::None => None,
        };
        RecipeHost::new(name, recipe, room, self.first_port, &self.broker_cpus, disk)
    }

    /// The cluster in a directory of its own.
    pub(crate) fn cluster_host(
        &self,
        name: &str,
        recipe: &Recipe,
        room: PathBuf,
        nodes: u16,
    ) -> Result<ClusterHost> {
        anyhow::ensure!(self.failpoints.is_empty(), "--failpoints does not go with --cluster");
        let size = (nodes, self.level);
        ClusterHost::new(name, recipe, room, self.first_port, &self.broker_cpus, size)
    }

    /// The broker that runs elsewhere.
    pub(crate) fn outside_host(&self, options: &Options) -> OutsideHost {
        OutsideHost::new(self.at.clone(), self.strike.clone(), self.heal.clone(), options.patience)
    }

    /// A directory for this run alone.
    pub(crate) fn room(&self) -> PathBuf {
        let parent = self.directory.clone().unwrap_or_else(std::env::temp_dir);
        parent.join(format!("ringlane-ledger-{}", std::process::id()))
    }

    fn fault(&self) -> Fault {
        if !self.at.is_empty() {
            return if self.strike.is_some() { Fault::Command } else { Fault::None };
        }
        match self.fault {
            FaultArg::Kill => Fault::Kill,
            FaultArg::PowerLoss => Fault::PowerLoss,
            FaultArg::Term => Fault::Term,
            FaultArg::FullDisk => Fault::FullDisk,
            FaultArg::WriteError => Fault::WriteError,
            FaultArg::None => Fault::None,
        }
    }
}

/// Short enough to be typed again.
fn seed_of_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64 % 1_000_000_000
}
