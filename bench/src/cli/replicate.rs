//! The flags of `replicate`.

use super::compare::{address, distinct};
use super::output::OutputArgs;
use anyhow::Result;
use clap::Args;
use ringlane_bench::compare::{BrokerPlan, Options, Origin, Recipe, WorkloadSet};
use ringlane_bench::durability::Level;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct ReplicateArgs {
    /// Levels of Ringlane's clusters, one cluster each; the others are compared with the first.
    #[arg(long = "level", value_enum, value_delimiter = ',',
          default_values_t = [Level::QuorumDisk, Level::QuorumMemory, Level::LocalDisk, Level::Memory])]
    levels: Vec<Level>,
    /// Partitions of Ringlane: one, as peers have one queue or stream; without a setting it would be four. Each
    /// is a log of its own, which is synced by itself.
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// Replicated peers: names of recipes, NAME=RECIPE.toml or NAME='COMMAND'.
    #[arg(long = "peer", value_name = "NAME[=RECIPE]", value_delimiter = ',',
          default_values_t = ["rabbitmq-quorum", "nats-r3-sync", "nats-r3"].map(str::to_owned))]
    peers: Vec<String>,
    /// Only Ringlane, and what --address says.
    #[arg(long, conflicts_with = "peers")]
    no_peers: bool,
    /// No cluster of Ringlane is started: only peers, and what --address says.
    #[arg(long, conflicts_with = "levels")]
    no_levels: bool,
    /// A cluster that runs already: where its leader is, and the processes of all its nodes.
    #[arg(long = "address", value_name = "NAME=HOST:PORT,leader=PID,follower=PID,...")]
    addresses: Vec<String>,
    /// Only the workloads with this text in their name; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Rounds; each measures every cluster once. Default: 3.
    #[arg(short = 'n', long)]
    rounds: Option<usize>,
    /// Measured seconds of each run. Default: 4.
    #[arg(short, long)]
    duration: Option<f64>,
    /// Seconds before that, not measured; some recipes need more.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// CPU that all nodes of a cluster share.
    #[arg(long, default_value_t = 0)]
    broker_cpu: usize,
    /// CPU of the load.
    #[arg(long, default_value_t = 1)]
    pub(crate) cpu: usize,
    /// The first of the ports: 14 for each cluster.
    #[arg(long, default_value_t = 29_030)]
    first_port: u16,
    /// Where the nodes' directories are made. Default: the directory for temporary files, which should be on
    /// a disk: the disk levels are to wait for one.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// One workload instead of the usual ones: a suite with its flags.
    #[arg(last = true, value_name = "SUITE FLAGS")]
    words: Vec<String>,
}

impl ReplicateArgs {
    pub(crate) fn options(&self) -> Result<Options> {
        let set = match self.words.as_slice() {
            [] => WorkloadSet::built_in("replicate")?.only(&self.only)?,
            words => WorkloadSet::of_words(words),
        };
        let (rounds, seconds) = (self.rounds.unwrap_or(3), self.duration.unwrap_or(4.0));
        Ok(Options {
            brokers: self.brokers()?,
            set: WorkloadSet { rounds, seconds, ..set },
            warm_up_seconds: self.warm_up,
            broker_cpu: self.broker_cpu,
            cpu: self.cpu,
            first_port: self.first_port,
            directory: Some(self.directory.clone().unwrap_or_else(std::env::temp_dir)),
        })
    }

    fn brokers(&self) -> Result<Vec<BrokerPlan>> {
        let mut brokers = Vec::new();
        for level in self.levels.iter().filter(|_| !self.no_levels) {
            let recipe = Recipe::ringlane_cluster(level.name(), self.partitions)?;
            brokers.push(BrokerPlan {
                name: level.name().into(),
                origin: Origin::Recipe(recipe.into()),
            });
        }
        for text in self.peers.iter().filter(|_| !self.no_peers) {
            let (name, recipe) = Recipe::from_flag(text)?;
            brokers.push(BrokerPlan { name, origin: Origin::Recipe(recipe.into()) });
        }
        for text in &self.addresses {
            brokers.push(address(text)?);
        }
        distinct(&brokers)?;
        Ok(brokers)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use anyhow::Result;
    use clap::Parser;
    use ringlane_bench::compare::{Options, Origin};

    fn options(line: &[&str]) -> Result<Options> {
        let line = ["x", "replicate"].iter().chain(line);
        let Command::Replicate(args) = Cli::try_parse_from(line)?.command else {
            panic!("not replicate")
        };
        args.options()
    }

    #[test]
    fn every_level_and_every_peer_runs_if_nothing_is_said() {
        let options = options(&[]).unwrap();
        let names: Vec<&str> = options.brokers.iter().map(|broker| broker.name.as_str()).collect();
        let levels = ["quorum_disk", "quorum_memory", "local_disk", "memory"];
        assert_eq!(names[..4], levels);
        assert_eq!(names[4..], ["rabbitmq-quorum", "nats-r3-sync", "nats-r3"]);
        assert!(
            options.brokers.iter().all(
                |broker| matches!(&broker.origin, Origin::Recipe(recipe) if recipe.nodes == 3)
            )
        );
        assert!(options.set.workloads.iter().all(|workload| workload.suite == "publish-ack"));
        assert!(options.directory.is_some(), "on a disk");
    }

    #[test]
    fn a_cluster_that_runs_has_its_processes_by_role() {
        let address = "there=127.0.0.1:1883,leader=7,follower=8,follower=9";
        let options = options(&["--no-peers", "--level", "memory", "--address", address]).unwrap();
        assert_eq!(options.brokers.len(), 2);
        let Origin::Address { processes, .. } = &options.brokers[1].origin else {
            panic!("not an address")
        };
        let roles: Vec<&str> = processes.iter().map(|watched| watched.role.as_str()).collect();
        assert_eq!(roles, ["leader", "follower", "follower"]);
    }
}
