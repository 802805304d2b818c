//! Appends to the broker's own log, without a broker: what a core's disk path does by itself.
//!
//! One thread is the core: it appends to its partitions, and the log's writer and the file driver
//! are those of the broker. [`floor`] then does rounds of the same size with plain calls, so that
//! a figure says how much is the disk's.

mod core;
pub mod floor;
mod scratch;

use self::core::Core;
use crate::process::{Process, own_thread_cpu};
use crate::report::latency_histogram;
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use ringlane_dataplane::batch::Level;
use ringlane_transport_uring::{FileBackend, TransportChoice, choose, probe};
use scratch::Scratch;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to append, where, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory on the file system to measure; what is made in it is removed.
    pub directory: PathBuf,
    /// Logs of the core, each with rounds of its own.
    pub partitions: u32,
    /// Bytes of a message's payload.
    pub payload_bytes: usize,
    /// Messages per partition that wait for their commitment; 0 is as many as the log takes.
    pub window: u32,
    /// When a message is committed.
    pub level: Level,
    /// Who writes and syncs.
    pub backend: FileBackend,
    /// Threads of the backend.
    pub threads: u16,
    /// CPUs of the backend's threads; any if empty.
    pub cpus: Vec<u32>,
    /// What the core waits with.
    pub transport: TransportChoice,
    /// Bytes of a segment once the log has grown.
    pub segment_bytes: u64,
    /// How long to measure, after a tenth of it as a warm-up.
    pub time: Duration,
}

/// What was measured.
#[derive(Debug)]
pub struct Outcome {
    /// The transport that was used.
    pub transport: String,
    /// The measured time.
    pub time: Duration,
    /// Messages committed.
    pub records: u64,
    /// Bytes written to the logs.
    pub log_bytes: u64,
    /// From the append to the commitment.
    pub commit_latency: Histogram<u64>,
    /// From the beginning of a write to the end of its sync, as the core sees them.
    pub round_latency: Histogram<u64>,
    /// CPU time of the core's thread, and of the whole program with its I/O threads.
    pub core_cpu: Duration,
    /// See `core_cpu`.
    pub process_cpu: Duration,
    /// Segments at the end, of all logs.
    pub segments: usize,
    /// Whether at the end everything that was accepted was durable.
    pub is_durable: bool,
}

impl Outcome {
    /// Bytes that a round wrote on average.
    #[must_use]
    pub fn round_bytes(&self) -> usize {
        (self.log_bytes / self.round_latency.len().max(1)) as usize
    }
}

/// Appends until the time is over, then waits until all of it is durable.
///
/// # Errors
/// If the directory cannot be used, the driver does not open, or a log ends with an error.
pub fn run(options: &Options) -> Result<Outcome> {
    ensure!(options.partitions > 0, "at least one partition");
    let scratch = Scratch::within(&options.directory)?;
    let (kind, _) = choose(options.transport, &probe::probe())?;
    let mut core = Core::open(options, kind, &scratch)?;
    core.run_until(Instant::now() + options.time / 10)?;
    core.forget();
    let process = Process(std::process::id());
    let (began, core_cpu, process_cpu) = (Instant::now(), own_thread_cpu()?, process.cpu_time()?);
    core.run_until(began + options.time)?;
    let time = began.elapsed();
    let core_cpu = own_thread_cpu()?.saturating_sub(core_cpu);
    let process_cpu = process.cpu_time()?.saturating_sub(process_cpu);
    let measured = core.take_figures();
    core.drain().context("the log did not come to rest")?;
    Ok(Outcome {
        transport: kind.to_string(),
        time,
        records: measured.records,
        log_bytes: measured.log_bytes,
        commit_latency: measured.commit_latency,
        round_latency: measured.round_latency,
        core_cpu,
        process_cpu,
        segments: core.segments(),
        is_durable: core.is_durable(),
    })
}

/// What is counted between two moments.
#[derive(Debug)]
struct Figures {
    records: u64,
    log_bytes: u64,
    commit_latency: Histogram<u64>,
    round_latency: Histogram<u64>,
}

impl Default for Figures {
    fn default() -> Self {
        let (commit_latency, round_latency) = (latency_histogram(), latency_histogram());
        Self { records: 0, log_bytes: 0, commit_latency, round_latency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(level: Level, backend: FileBackend, window: u32) -> Options {
        Options {
            directory: std::env::temp_dir(),
            partitions: 2,
            payload_bytes: 100,
            window,
            level,
            backend,
            threads: 2,
            cpus: Vec::new(),
            transport: TransportChoice::Auto,
            segment_bytes: 1 << 20,
            time: Duration::from_millis(200),
        }
    }

    #[test]
    fn what_is_appended_is_committed_and_durable() {
        for level in [Level::Memory, Level::LocalDisk] {
            for backend in [FileBackend::Threads, FileBackend::Ring] {
                for window in [0, 1] {
                    let outcome = run(&options(level, backend, window)).unwrap();
                    assert!(outcome.is_durable, "{level:?} {backend:?} {window}");
                    assert!(outcome.records > 0 && !outcome.commit_latency.is_empty());
                    assert!(outcome.log_bytes >= 100 * outcome.round_latency.len());
                }
            }
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let mut options = options(Level::Memory, FileBackend::Threads, 1);
        options.directory = PathBuf::from("/none/of/this");
        let error = format!("{:#}", run(&options).unwrap_err());
        assert!(error.contains("/none/of/this"), "{error}");
    }
}
