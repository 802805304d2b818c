//! One run: a cluster under faults, then without.

use crate::cluster::Cluster;
use crate::counters::{Counter, Counters};
use crate::faults;
use crate::ledger::Violation;
use core::time::Duration;
use ringlane_dataplane::time::Nanos;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How long a run is without faults at its end.
const CALM: Duration = Duration::from_secs(6);
/// How much longer one goes on at a time that has too few acknowledged publishes yet, and how often.
const LONGER: Duration = Duration::from_secs(20);
const LONGER_MAX: usize = 20;
/// What a whole run has: acknowledged publishes, and faults that took effect.
pub const ACKNOWLEDGED_MIN: u64 = 1000;
/// As above.
pub const FAULTS_MIN: u64 = 5;
/// Without faults a cluster is as it should be after this time.
const SETTLES_IN: Duration = Duration::from_secs(20);

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Nodes; 0: three or five, as the seed says.
    pub nodes: usize,
    /// Whether it has to settle after the faults.
    pub liveness: bool,
    /// How long a run is at least, in seconds of its time; a whole one has [`SECONDS`], and goes on until it
    /// [`Outcome::is_whole`].
    pub seconds: u64,
}

/// A whole run, in seconds of its time.
pub const SECONDS: u64 = 60;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What took place.
    pub counters: Counters,
    /// Everything, as a number.
    pub trace: u64,
    /// Events.
    pub steps: u64,
    /// The rule that does not hold, and how the nodes stand.
    pub failure: Option<String>,
}

impl Outcome {
    /// Whether it has as much as it is to have to be worth something.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        is_whole(&self.counters)
    }
}

fn is_whole(counters: &Counters) -> bool {
    ACKNOWLEDGED_MIN <= counters.of(Counter::Acknowledged)
        && FAULTS_MIN <= counters.of(Counter::Faults)
}

/// Runs a seed. A panic is a failure like others.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Outcome {
    let by_seed = if seed % 4 == 3 { 5 } else { 3 };
    let nodes = if options.nodes == 0 { by_seed } else { options.nodes };
    let mut outcome = Outcome::default();
    let mut cluster = match Cluster::new(seed, nodes) {
        Ok(cluster) => cluster,
        Err(Violation(what)) => return Outcome { failure: Some(what), ..outcome },
    };
    let ended = catch_unwind(AssertUnwindSafe(|| go(&mut cluster, options)));
    outcome.counters = cluster.counters();
    (outcome.trace, outcome.steps) = (cluster.trace.value(), cluster.steps());
    let what = match ended {
        Ok(Ok(())) => return outcome,
        Ok(Err(Violation(what))) => what,
        Err(panic) => panic_text(panic.as_ref()),
    };
    let at = Duration::from_nanos(cluster.now.0).as_secs_f64();
    // What has panicked may not be able to say how it stands.
    let stand = catch_unwind(AssertUnwindSafe(|| cluster.describe())).unwrap_or_default();
    outcome.failure = Some(format!("after {at:.6} s: {what}\n{stand}"));
    outcome
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn core::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a text"))
}

fn go(cluster: &mut Cluster, options: &Options) -> Result<(), Violation> {
    let end = Nanos::from_secs(options.seconds);
    let faults_end = Nanos(end.since(Nanos(CALM.as_nanos() as u64)).as_nanos() as u64);
    faults::plan(cluster, Nanos(0), faults_end);
    cluster.run_until(faults_end)?;
    if options.seconds >= SECONDS {
        go_on(cluster)?;
    }
    faults::calm(cluster)?;
    cluster.run_until(cluster.now + CALM)?;
    if options.liveness { settle(cluster) } else { Ok(()) }
}

/// Where faults were so many that hardly anything was acknowledged, there is more time.
fn go_on(cluster: &mut Cluster) -> Result<(), Violation> {
    for _ in 0..LONGER_MAX {
        if is_whole(&cluster.counters) {
            break;
        }
        let (from, end) = (cluster.now, cluster.now + LONGER);
        faults::plan(cluster, from, end);
        cluster.run_until(end)?;
    }
    Ok(())
}

/// Publishers are answered again, and then all nodes have everything.
fn settle(cluster: &mut Cluster) -> Result<(), Violation> {
    let before = cluster.counters.of(Counter::Acknowledged);
    cluster.run_until(cluster.now + SETTLES_IN)?;
    if cluster.counters.of(Counter::Acknowledged) <= before {
        return Err(Violation("nobody is answered although nothing is wrong".to_owned()));
    }
    cluster.publishes = false;
    let mut until = cluster.now;
    for _ in 0..100 {
        if cluster.is_settled() {
            return Ok(());
        }
        until = until + Duration::from_millis(200);
        cluster.run_until(until)?;
    }
    Err(Violation("nodes do not become equal although nothing is wrong".to_owned()))
}
