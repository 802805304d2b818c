//! The `ringlane-sim` command: runs seeds, and says which fail.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use ringlane_sim::counters::{Counter, Counters, DEMANDED, Kind, NAMES, Table};
use ringlane_sim::run::{ACKNOWLEDGED_MIN, FAULTS_MIN, Options, Outcome, SECONDS, run};
use std::io::Write;
use std::num::NonZero;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs clusters on virtual time, each from one seed, and checks that nothing is lost.
#[derive(Parser, Debug)]
#[command(name = "ringlane-sim", version)]
struct Cli {
    /// The seeds, the last one exclusive: A..B, or one.
    #[arg(long, default_value = "0..200")]
    seeds: Seeds,
    /// Nodes of each cluster; without it three or five, as the seed says.
    #[arg(long, default_value_t = 0)]
    nodes: usize,
    /// Also: after the faults, a cluster works again within a bound.
    #[arg(long)]
    liveness: bool,
    /// Clusters of whole brokers with clients (only with the feature `brokers`).
    #[arg(long)]
    brokers: bool,
    /// Also clusters of whole brokers, of these seeds (only with the feature `brokers`).
    #[arg(long, conflicts_with = "brokers")]
    broker_seeds: Option<Seeds>,
    /// Fail if something that a run can have did not happen in any, or if a seed has had too little.
    #[arg(long)]
    complete: bool,
    /// Print the trace of each seed.
    #[arg(long)]
    traces: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seeds(u64, u64);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match text.split_once("..") {
            Some((from, to)) => Ok(Self(number(from)?, number(to)?)),
            None => number(text).map(|seed| Self(seed, seed + 1)),
        }
    }
}

impl Seeds {
    fn count(self) -> u64 {
        self.1.saturating_sub(self.0)
    }
}

impl Cli {
    /// What is run: clusters of whole brokers first, which take longer.
    fn runs(&self) -> Vec<(Kind, Seeds)> {
        let first = if self.brokers { Kind::Brokers } else { Kind::Replicas };
        let also = self.broker_seeds.map(|seeds| (Kind::Brokers, seeds));
        also.into_iter().chain([(first, self.seeds)]).collect()
    }
}

/// What came of all seeds of a kind.
#[derive(Default)]
struct Sums {
    counters: Counters,
    steps: u64,
    failed: u64,
    /// Seeds with as much as they are to have.
    whole: u64,
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        self.counters.add(&outcome.counters);
        self.steps += outcome.steps;
        self.failed += u64::from(outcome.failure.is_some());
        self.whole += u64::from(outcome.is_whole());
    }
}

fn main() -> ExitCode {
    match try_main(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("ringlane-sim: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // Nothing is left to do if even that fails.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn try_main(cli: &Cli) -> Result<()> {
    let options = Options { nodes: cli.nodes, liveness: cli.liveness, seconds: SECONDS };
    if !matches!(cli.nodes, 0 | 2..=7) {
        bail!("a cluster has two to seven nodes");
    }
    let has_brokers = cli.brokers || cli.broker_seeds.is_some();
    if has_brokers && (cli.nodes != 0 || cli.liveness || cfg!(not(feature = "brokers"))) {
        bail!(
            "whole brokers take the feature `brokers`, as many nodes as the seed says, and are always held to \
             liveness"
        );
    }
    // A panic is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let runs = cli.runs();
    let sums: Vec<_> = runs.iter().map(|_| Mutex::new(Sums::default())).collect();
    let each = runs.iter().zip(&sums);
    let all: Vec<_> = each
        .flat_map(|((kind, seeds), sums)| (seeds.0..seeds.1).map(move |s| (*kind, s, sums)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((kind, seed, sums)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = match kind {
                Kind::Brokers => run_brokers(*seed),
                Kind::Replicas => run(*seed, &options),
            };
            tell(cli, *kind, *seed, &outcome);
            if let Ok(mut sums) = sums.lock() {
                sums.add(&outcome);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let sums: Result<Vec<_>, _> = sums.into_iter().map(Mutex::into_inner).collect();
    end(cli, &runs, &sums.ok().context("a thread has ended")?)
}

#[cfg(feature = "brokers")]
fn run_brokers(seed: u64) -> Outcome {
    ringlane_sim::brokers::run(seed, ringlane_sim::brokers::WHOLE)
}

#[cfg(not(feature = "brokers"))]
fn run_brokers(_: u64) -> Outcome {
    Outcome::default()
}

fn tell(cli: &Cli, kind: Kind, seed: u64, outcome: &Outcome) {
    if cli.traces {
        let (acknowledged, faults) =
            (outcome.counters.of(Counter::Acknowledged), outcome.counters.of(Counter::Faults));
        say(&format!("{seed} {:016x} {acknowledged} acknowledged, {faults} faults", outcome.trace));
    }
    if let Some(failure) = &outcome.failure {
        let liveness = if cli.liveness { " --liveness" } else { "" };
        let nodes = if cli.nodes == 0 { String::new() } else { format!(" --nodes {}", cli.nodes) };
        let (build, brokers) = match kind {
            Kind::Brokers => (
                "cargo run --config sim/fast.toml -p ringlane-sim --features brokers",
                " --brokers",
            ),
            Kind::Replicas => ("cargo run --profile sim -p ringlane-sim", ""),
        };
        say(&format!(
            "seed {seed} fails: {failure}again: {build} -- --seeds {seed}{nodes}{liveness}{brokers}"
        ));
    }
}

fn end(cli: &Cli, runs: &[(Kind, Seeds)], sums: &[Sums]) -> Result<()> {
    let columns: Vec<_> =
        runs.iter().zip(sums).map(|((kind, _), sums)| (kind.name(), sums.counters)).collect();
    say(&format!("{}", Table(&columns)));
    for ((kind, seeds), Sums { steps, failed, whole, .. }) in runs.iter().zip(sums) {
        say(&format!(
            "{} seeds of {}, {steps} events, {failed} failed; {whole} with {ACKNOWLEDGED_MIN} \
             acknowledged publishes and {FAULTS_MIN} faults at least",
            seeds.count(),
            kind.name(),
        ));
    }
    let mut all = Counters::default();
    sums.iter().for_each(|sums| all.add(&sums.counters));
    let demanded = DEMANDED.map(|counter| (NAMES[counter as usize], all.of(counter)));
    let text = demanded.map(|(name, count)| format!("{name} {count}")).join(", ");
    say(&format!("over all: {text}"));
    if sums.iter().any(|sums| sums.failed > 0) {
        bail!("seeds failed");
    }
    if !cli.complete {
        return Ok(());
    }
    for ((kind, seeds), sums) in runs.iter().zip(sums) {
        if sums.whole < seeds.count() {
            bail!("{} seeds of {} had too little", seeds.count() - sums.whole, kind.name());
        }
        let missing = sums.counters.missing(*kind);
        if !missing.is_empty() {
            bail!("never took place in {}: {}", kind.name(), missing.join(", "));
        }
    }
    let zero: Vec<_> = demanded.iter().filter(|(_, n)| *n == 0).map(|(name, _)| *name).collect();
    if runs.len() > 1 && !zero.is_empty() {
        bail!("never took place: {}", zero.join(", "));
    }
    Ok(())
}
