//! Two or more brokers under the same workloads, in interleaved rounds.
//!
//! For each workload every broker is started afresh, so that no workload meets what another left
//! behind, and all stay for its rounds. Within a round they are measured one after the other, in an
//! order that moves on by one with each round. Whoever is not being measured is frozen (SIGSTOP):
//! its idle work would be in the way on the broker's CPU. Brokers that are given by address are left
//! as they are. A recipe may be that of a cluster, whose nodes share the CPU; the load goes to the node that
//! leads, which is asked for before each run.

mod cluster;
mod launch;
mod listener;
mod recipe;
mod run;
mod started;
mod table;
mod workloads;

pub(crate) use cluster::{CONFIGURATION, Cluster};
pub(crate) use launch::{Running, accepts_connect};
pub use recipe::{Recipe, Values};
pub use table::table;
pub use workloads::{WorkloadPlan, WorkloadSet};

use crate::broker_version;
use crate::document::{BrokerInfo, Cell, Document, Workload};
use crate::environment::Recorder;
use crate::meter::Watched;
use crate::progress::Bar;
use anyhow::{Context, Result, ensure};
use cluster::ports_of;
use recipe::Seat;
use run::RunPlan;
use serde_json::Value;
use started::Started;
use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The name of the recipe that is a relay and no broker.
pub(crate) const FLOOR: &str = "floor";

/// A broker to compare.
#[derive(Clone, Debug)]
pub struct BrokerPlan {
    /// Its name in tables.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a broker comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Started here.
    Recipe(Box<Recipe>),
    /// Runs already.
    Address {
        /// Where it listens.
        address: SocketAddr,
        /// Its processes, if they are on this machine: without them there is no CPU time.
        processes: Vec<Watched>,
    },
}

/// What to compare, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The brokers; the others are compared with the first.
    pub brokers: Vec<BrokerPlan>,
    /// The workloads.
    pub set: WorkloadSet,
    /// Seconds before each measurement, unless a recipe needs more.
    pub warm_up_seconds: f64,
    /// The CPU of the brokers.
    pub broker_cpu: usize,
    /// The CPU of the load.
    pub cpu: usize,
    /// The first port that may be used.
    pub first_port: u16,
    /// Where brokers keep what they store; in memory if nothing is said, so that none waits for a disk.
    pub directory: Option<PathBuf>,
}

/// Runs a comparison. `on_workload` is called with all there is after each workload, the last of
/// which is new.
///
/// # Errors
/// If a program is missing, a broker does not start, or `on_workload` fails.
pub fn run(
    options: &Options,
    on_workload: &mut dyn FnMut(&Document) -> Result<()>,
) -> Result<Document> {
    ensure!(!options.brokers.is_empty(), "no broker to measure: --broker or --address");
    ensure!(options.set.rounds > 0, "--rounds must be at least 1");
    let room = Scratch::new(options.directory.as_deref())?;
    let mut port = options.first_port;
    let mut fields: Vec<Field<'_>> = Vec::new();
    for plan in &options.brokers {
        fields.push(Field::new(&mut port, plan, options, &room)?);
    }
    let brokers = fields.iter().map(|field| field.info.clone()).collect();
    let mut document = Document { brokers, ..Document::default() };
    let recorder = Recorder::start(Vec::new());
    let runs = options.set.rounds * fields.len() * options.set.workloads.len();
    let mut bar = Bar::new(runs);
    for workload in &options.set.workloads {
        let done = compare_one(options, &fields, workload, &room, &mut bar)?;
        document.workloads.push(done);
        document.environments = vec![recorder.finish(None)];
        bar.clear();
        on_workload(&document)?;
    }
    Ok(document)
}

/// A broker with all that must be known to start it.
struct Field<'a> {
    plan: &'a BrokerPlan,
    values: Values,
    info: BrokerInfo,
}

impl<'a> Field<'a> {
    /// A broker on the next free ports.
    fn new(
        port: &mut u16,
        plan: &'a BrokerPlan,
        options: &Options,
        room: &Scratch,
    ) -> Result<Self> {
        let mut values = Values {
            directory: room.0.join(&plan.name),
            port: *port,
            cpu: options.broker_cpu.to_string(),
            ..Values::default()
        };
        let info = match &plan.origin {
            Origin::Recipe(recipe) => {
                *port = port.checked_add(ports_of(recipe)).context("--first-port is too high")?;
                values.program = recipe.find_program(&plan.name)?;
                let (node, nodes, first_port) = (1, recipe.nodes, values.port);
                values.seat = (nodes > 1).then_some(Seat { node, nodes, first_port });
                recipe.info(&plan.name, recipe.version_line(&values), &values)
            }
            Origin::Address { address, processes } => BrokerInfo {
                name: plan.name.clone(),
                version: broker_version::ask(*address).unwrap_or_default(),
                command: format!("at {address}"),
                notes: processes
                    .is_empty()
                    .then(|| "No pid: no CPU time.".to_owned())
                    .into_iter()
                    .collect(),
                ..BrokerInfo::default()
            },
        };
        Ok(Self { plan, values, info })
    }

    fn start(&self, unbatched: bool) -> Result<Started> {
        match &self.plan.origin {
            Origin::Recipe(recipe) => {
                let values = Values { unbatched, ..self.values.clone() };
                Started::start(&self.plan.name, recipe, &values)
            }
            Origin::Address { address, processes } => {
                Ok(Started::there(*address, processes.clone()))
            }
        }
    }

    /// Why a workload makes no sense with this broker.
    fn refusal(&self, workload: &WorkloadPlan) -> Option<String> {
        match &self.plan.origin {
            Origin::Recipe(recipe) if recipe.qos_max < workload.qos() => {
                Some(format!("it forwards QoS {} at most", recipe.qos_max))
            }
            _ => None,
        }
    }

    fn warm_up_seconds(&self, options: &Options) -> f64 {
        match &self.plan.origin {
            Origin::Recipe(recipe) => options.warm_up_seconds.max(recipe.warm_up_seconds),
            Origin::Address { .. } => options.warm_up_seconds,
        }
    }
}

fn compare_one(
    options: &Options,
    fields: &[Field<'_>],
    workload: &WorkloadPlan,
    room: &Scratch,
    bar: &mut Bar,
) -> Result<Workload> {
    let mut cells: Vec<Cell> = Vec::with_capacity(fields.len());
    let mut entrants = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let skipped = field.refusal(workload);
        if skipped.is_none() {
            bar.show(&format!("starting {}", field.plan.name));
            let started = field.start(workload.unbatched_floor && field.plan.name == FLOOR)?;
            started.freeze()?;
            entrants.push((index, started));
        }
        cells.push(Cell { broker: field.plan.name.clone(), skipped, ..Cell::default() });
    }
    for round in 0..options.set.rounds {
        for turn in 0..entrants.len() {
            let place = (round + turn) % entrants.len();
            let (index, started) = &mut entrants[place];
            let (field, cell) = (&fields[*index], &mut cells[*index]);
            bar.show(&format!("{}, {}, round {}", workload.name, field.plan.name, round + 1));
            measure(options, field, started, workload, room, cell)?;
            bar.step();
        }
    }
    (0..(fields.len() - entrants.len()) * options.set.rounds).for_each(|_| bar.step());
    Ok(Workload { name: workload.name.clone(), arguments: workload.arguments(), cells })
}

/// One run; a run that fails is a round that failed.
fn measure(
    options: &Options,
    field: &Field<'_>,
    started: &mut Started,
    workload: &WorkloadPlan,
    room: &Scratch,
    cell: &mut Cell,
) -> Result<()> {
    match run_once(options, field, started, workload, room) {
        Ok(json) => cell.add_run(json)?,
        Err(error) => {
            let output = started.output();
            cell.add_failure(format!("the run ended: {error:#} {output}").trim().to_owned());
        }
    }
    started.freeze()
}

fn run_once(
    options: &Options,
    field: &Field<'_>,
    started: &mut Started,
    workload: &WorkloadPlan,
    room: &Scratch,
) -> Result<Value> {
    started.thaw()?;
    let endpoint = started.endpoint()?;
    run::run(&RunPlan {
        workload,
        endpoint: &endpoint,
        cpu: options.cpu,
        seconds: options.set.seconds,
        warm_up_seconds: field.warm_up_seconds(options),
        broker: if field.info.version.is_empty() { &field.info.name } else { &field.info.version },
        output: &room.0.join("run.json"),
    })
}

/// A directory, in memory if nothing else is said and there is one, so that no broker waits for a disk. Gone
/// at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: Option<&Path>) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let usual = || if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
        let parent = parent.map_or_else(usual, Path::to_owned);
        let path = parent.join(format!("ringlane-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in a directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
