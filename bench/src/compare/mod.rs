//! Two or more brokers under the same workloads, in interleaved rounds.
//!
//! For each workload every broker is started afresh, so that no workload meets what another left
//! behind, and all stay for its rounds. Within a round they are measured one after the other, in an
//! order that moves on by one with each round. Whoever is not being measured is frozen (SIGSTOP):
//! its idle work would be in the way on the broker's CPU. Brokers that are given by address are left
//! as they are.

mod launch;
mod listener;
mod recipe;
mod run;
mod table;
mod workloads;

pub(crate) use launch::{Running, accepts_connect};
pub use recipe::{Recipe, Values};
pub use table::table;
pub use workloads::{WorkloadPlan, WorkloadSet};

use crate::broker_version;
use crate::document::{BrokerInfo, Cell, Document, Workload};
use crate::environment::Recorder;
use crate::progress::Bar;
use anyhow::{Context, Result, bail, ensure};
use run::{Endpoint, RunPlan};
use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Ports that a broker may use: the one of its recipe and three more.
const PORTS_PER_BROKER: u16 = 4;
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
    Recipe(Recipe),
    /// Runs already.
    Address {
        /// Where it listens.
        address: SocketAddr,
        /// Its process, if it is on this machine: without it there is no CPU time.
        pid: Option<u32>,
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
    let room = Scratch::new()?;
    let fields = options.brokers.iter().enumerate();
    let fields: Vec<Field<'_>> = fields
        .map(|(index, plan)| Field::new(index, plan, options, &room))
        .collect::<Result<_>>()?;
    let brokers = fields.iter().map(|field| field.info.clone()).collect();
    let mut document = Document { brokers, ..Document::default() };
    let recorder = Recorder::start(None);
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
    fn new(index: usize, plan: &'a BrokerPlan, options: &Options, room: &Scratch) -> Result<Self> {
        let port = u16::try_from(index)
            .ok()
            .and_then(|index| options.first_port.checked_add(index * PORTS_PER_BROKER))
            .context("--first-port leaves too few ports")?;
        let mut values = Values {
            program: PathBuf::new(),
            directory: room.0.join(&plan.name),
            port,
            cpu: options.broker_cpu.to_string(),
            unbatched: false,
        };
        let info = match &plan.origin {
            Origin::Recipe(recipe) => {
                values.program = recipe.find_program(&plan.name)?;
                recipe.info(&plan.name, recipe.version_line(&values), &values)
            }
            Origin::Address { address, pid } => BrokerInfo {
                name: plan.name.clone(),
                version: broker_version::ask(*address).unwrap_or_default(),
                command: format!("at {address}"),
                notes: pid
                    .is_none()
                    .then(|| "No pid: no CPU time.".to_owned())
                    .into_iter()
                    .collect(),
                ..BrokerInfo::default()
            },
        };
        Ok(Self { plan, values, info })
    }

    fn start(&self, unbatched: bool) -> Result<Option<Running>> {
        let Origin::Recipe(recipe) = &self.plan.origin else { return Ok(None) };
        let values = Values { unbatched, ..self.values.clone() };
        Running::start(&self.plan.name, recipe, &values).map(Some)
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
            let running = field.start(workload.unbatched_floor && field.plan.name == FLOOR)?;
            running.as_ref().map_or(Ok(()), Running::freeze)?;
            entrants.push((index, running));
        }
        cells.push(Cell { broker: field.plan.name.clone(), skipped, ..Cell::default() });
    }
    for round in 0..options.set.rounds {
        for turn in 0..entrants.len() {
            let (index, running) = &entrants[(round + turn) % entrants.len()];
            let (field, cell) = (&fields[*index], &mut cells[*index]);
            bar.show(&format!("{}, {}, round {}", workload.name, field.plan.name, round + 1));
            measure(options, field, running.as_ref(), workload, room, cell)?;
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
    running: Option<&Running>,
    workload: &WorkloadPlan,
    room: &Scratch,
    cell: &mut Cell,
) -> Result<()> {
    let endpoint = match (&field.plan.origin, running) {
        (Origin::Recipe(recipe), Some(running)) => Endpoint {
            address: running.address,
            pid: Some(running.process.0),
            metrics: recipe.metrics.as_ref().map(|url| field.values.fill(url)),
        },
        (Origin::Address { address, pid }, _) => {
            Endpoint { address: *address, pid: *pid, metrics: None }
        }
        (Origin::Recipe(_), None) => bail!("{} was not started", field.plan.name),
    };
    let plan = RunPlan {
        workload,
        endpoint: &endpoint,
        cpu: options.cpu,
        seconds: options.set.seconds,
        warm_up_seconds: field.warm_up_seconds(options),
        broker: if field.info.version.is_empty() { &field.info.name } else { &field.info.version },
        output: &room.0.join("run.json"),
    };
    running.map_or(Ok(()), Running::thaw)?;
    match run::run(&plan) {
        Ok(json) => cell.add_run(json)?,
        Err(error) => {
            let output = running.map(Running::output).unwrap_or_default();
            cell.add_failure(format!("the run ended: {error:#} {output}").trim().to_owned());
        }
    }
    running.map_or(Ok(()), Running::freeze)
}

/// A directory in memory where there is one, so that no broker waits for a disk. Gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
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
