//! The `ringlane-sim` command: runs seeds, and says which fail.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use ringlane_sim::counters::{Counter, Counters, Kind};
use ringlane_sim::run::{ACKNOWLEDGED_MIN, FAULTS_MIN, Options, Outcome, SECONDS, run};
use std::io::Write;
use std::num::NonZero;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// What came of all seeds.
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
    if cli.brokers && (cli.nodes != 0 || cli.liveness || cfg!(not(feature = "brokers"))) {
        bail!(
            "--brokers takes the feature of that name, has three nodes, and is always held to liveness"
        );
    }
    // A panic is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let (next, sums) = (AtomicU64::new(cli.seeds.0), Mutex::new(Sums::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if cli.seeds.1 <= seed {
                return;
            }
            let outcome = if cli.brokers { run_brokers(seed) } else { run(seed, &options) };
            tell(cli, seed, &outcome);
            if let Ok(mut sums) = sums.lock() {
                sums.add(&outcome);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    end(cli, &sums.into_inner().ok().context("a thread has ended")?)
}

#[cfg(feature = "brokers")]
fn run_brokers(seed: u64) -> Outcome {
    ringlane_sim::brokers::run(seed, ringlane_sim::brokers::WHOLE)
}

#[cfg(not(feature = "brokers"))]
fn run_brokers(_: u64) -> Outcome {
    Outcome::default()
}

fn tell(cli: &Cli, seed: u64, outcome: &Outcome) {
    if cli.traces {
        let (acknowledged, faults) =
            (outcome.counters.of(Counter::Acknowledged), outcome.counters.of(Counter::Faults));
        say(&format!("{seed} {:016x} {acknowledged} acknowledged, {faults} faults", outcome.trace));
    }
    if let Some(failure) = &outcome.failure {
        let liveness = if cli.liveness { " --liveness" } else { "" };
        let (feature, brokers) =
            if cli.brokers { (" --features brokers", " --brokers") } else { ("", "") };
        let nodes = if cli.nodes == 0 { String::new() } else { format!(" --nodes {}", cli.nodes) };
        say(&format!(
            "seed {seed} fails: {failure}again: cargo run --profile sim -p ringlane-sim{feature} -- --seeds {seed}{nodes}{liveness}{brokers}"
        ));
    }
}

fn end(cli: &Cli, sums: &Sums) -> Result<()> {
    let seeds = cli.seeds.1.saturating_sub(cli.seeds.0);
    let Sums { counters, steps, failed, whole } = sums;
    say(&format!(
        "{seeds} seeds, {steps} events, {failed} failed; {whole} with {ACKNOWLEDGED_MIN} acknowledged \
         publishes and {FAULTS_MIN} faults at least\n{counters}"
    ));
    if *failed > 0 {
        bail!("{failed} of {seeds} seeds failed");
    }
    if cli.complete && *whole < seeds {
        bail!("{} seeds had too little", seeds - whole);
    }
    let missing = counters.missing(if cli.brokers { Kind::Brokers } else { Kind::Replicas });
    if cli.complete && !missing.is_empty() {
        bail!("never took place: {}", missing.join(", "));
    }
    Ok(())
}
