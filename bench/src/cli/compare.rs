//! The flags of `compare` and `report`.

use super::common::watched;
use super::output::OutputArgs;
use anyhow::{Context, Result, ensure};
use clap::Args;
use ringlane_bench::compare::{BrokerPlan, Options, Origin, Recipe, WorkloadSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// A broker to start: the name of a recipe (ringlane, floor, mosquitto, rumqttd, nats, rabbitmq),
    /// NAME=RECIPE.toml, or NAME='COMMAND with {port}', which may also use {dir} and {cpu}. Give two
    /// or more; the others are compared with the first.
    #[arg(long = "broker", value_name = "NAME[=COMMAND]")]
    brokers: Vec<String>,
    /// A broker that runs already; its process gives its CPU time, of a cluster leader=PID,follower=PID,...
    #[arg(long = "address", value_name = "NAME=HOST:PORT[,pid=N]")]
    addresses: Vec<String>,
    /// A built-in set of workloads: quick (a minute), per-core (cost of each shape of traffic) or
    /// latency (at fixed rates).
    #[arg(long, value_name = "NAME", conflicts_with_all = ["workloads", "words"])]
    set: Option<String>,
    /// A TOML file of [[workload]] tables with name, suite and flags.
    #[arg(long, value_name = "FILE", conflicts_with = "words")]
    workloads: Option<PathBuf>,
    /// Only the workloads with this text in their name; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Rounds; each measures every broker once. Default: what the set says, 5 for most.
    #[arg(short = 'n', long)]
    rounds: Option<usize>,
    /// Measured seconds of each run. Default: what the set says.
    #[arg(short, long)]
    duration: Option<f64>,
    /// Seconds before that, not measured; some recipes need more.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// CPU of the brokers.
    #[arg(long, default_value_t = 0)]
    broker_cpu: usize,
    /// CPU of the load.
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// The first of four ports for each broker, and for each node of a cluster.
    #[arg(long, default_value_t = 28_830)]
    first_port: u16,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// One workload instead of a set: a suite with its flags.
    #[arg(last = true, value_name = "SUITE FLAGS")]
    words: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// What `--json` of `compare` or of a suite wrote. Cells of the same workload and broker are put
    /// together.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl CompareArgs {
    pub(crate) fn options(&self) -> Result<Options> {
        let mut brokers = Vec::new();
        for text in &self.brokers {
            let (name, recipe) = Recipe::from_flag(text)?;
            brokers.push(BrokerPlan { name, origin: Origin::Recipe(recipe.into()) });
        }
        for text in &self.addresses {
            brokers.push(address(text).with_context(|| format!("--address {text:?}"))?);
        }
        distinct(&brokers)?;
        let mut set = self.chosen_set()?.only(&self.only)?;
        set.rounds = self.rounds.unwrap_or(set.rounds);
        set.seconds = self.duration.unwrap_or(set.seconds);
        Ok(Options {
            brokers,
            set,
            warm_up_seconds: self.warm_up,
            broker_cpu: self.broker_cpu,
            cpu: self.cpu,
            first_port: self.first_port,
            directory: None,
        })
    }

    /// The CPU of the load, which this program uses, too.
    pub(crate) fn cpu(&self) -> usize {
        self.cpu
    }

    fn chosen_set(&self) -> Result<WorkloadSet> {
        match (&self.workloads, self.words.as_slice()) {
            (Some(file), _) => WorkloadSet::from_file(file),
            (None, []) => WorkloadSet::built_in(self.set.as_deref().unwrap_or("quick")),
            (None, words) => Ok(WorkloadSet::of_words(words)),
        }
    }
}

/// Each has a name of its own.
pub(super) fn distinct(brokers: &[BrokerPlan]) -> Result<()> {
    for (index, broker) in brokers.iter().enumerate() {
        let twice = brokers[..index].iter().any(|other| other.name == broker.name);
        ensure!(!twice, "two brokers are called {}: NAME=COMMAND gives another", broker.name);
    }
    Ok(())
}

/// `NAME=HOST:PORT`, and behind it the broker's processes as `--pid` takes them, or `pid=N`.
pub(super) fn address(text: &str) -> Result<BrokerPlan> {
    let (name, place) = text.split_once('=').context("no NAME=")?;
    let mut parts = place.split(',');
    let place = parts.next().unwrap_or_default();
    let process = |part: &str| watched(part.strip_prefix("pid=").unwrap_or(part));
    let processes = parts.map(process).collect::<Result<_>>()?;
    let address: SocketAddr = place.to_socket_addrs()?.next().context("the host has no address")?;
    Ok(BrokerPlan { name: name.to_owned(), origin: Origin::Address { address, processes } })
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use anyhow::Result;
    use clap::Parser;
    use ringlane_bench::compare::{Options, Origin};

    fn options(line: &[&str]) -> Result<Options> {
        let line = ["x", "compare"].iter().chain(line);
        let Command::Compare(args) = Cli::try_parse_from(line)?.command else {
            panic!("not compare")
        };
        args.options()
    }

    #[test]
    fn brokers_are_recipes_commands_and_addresses() {
        let flags = ["--broker", "mosquitto", "--broker", "mine=x {port}", "--address"];
        let options = options(&[&flags[..], &["there=127.0.0.1:1883,pid=7"]].concat()).unwrap();
        let names: Vec<&str> = options.brokers.iter().map(|broker| broker.name.as_str()).collect();
        assert_eq!(names, ["mosquitto", "mine", "there"]);
        assert!(
            matches!(&options.brokers[2].origin, Origin::Address { processes, .. } if processes[0].process.0 == 7)
        );
        assert_eq!((options.set.rounds, options.cpu, options.broker_cpu), (2, 1, 0));
    }

    #[test]
    fn a_workload_can_stand_on_the_command_line() {
        let line =
            ["--broker", "floor", "-n", "3", "-d", "0.5", "--", "throughput", "pairs", "-W", "8"];
        let options = options(&line).unwrap();
        assert_eq!(options.set.workloads[0].arguments(), ["throughput", "pairs", "-W", "8"]);
        assert_eq!((options.set.rounds, options.set.seconds), (3, 0.5));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            &["--broker", "floor", "--broker", "floor"][..],
            &["--address", "x"],
            &["--address", "x=127.0.0.1:1,pid=x"],
            &["--broker", "floor", "--set", "x"],
            &["--broker", "floor", "--set", "quick", "--", "churn"],
        ] {
            assert!(options(line).is_err(), "{line:?}");
        }
    }
}
