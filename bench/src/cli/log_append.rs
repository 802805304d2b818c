//! The flags of `log-append`.

use super::output::OutputArgs;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use ringlane_bench::log_append::Options;
use ringlane_dataplane::batch::Level;
use ringlane_transport_uring::{FileBackend, TransportChoice};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum LevelArg {
    /// Committed at once.
    Memory,
    /// Committed when it is flushed.
    LocalDisk,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum FilesArg {
    /// Threads of this program.
    Threads,
    /// The core's own ring.
    Ring,
}

#[derive(Args, Debug)]
pub(crate) struct LogAppendArgs {
    /// A directory on the file system to measure; what is made in it is removed.
    #[arg(long, default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Logs of the core, each with rounds of its own.
    #[arg(short = 'n', long, default_value_t = 1)]
    pub(crate) partitions: u32,
    /// Bytes of a payload.
    #[arg(short, long, default_value_t = 100)]
    pub(crate) size: usize,
    /// Messages of a partition that wait for their commitment; 0 is as many as the log takes.
    #[arg(short = 'W', long, default_value_t = 0)]
    pub(crate) window: u32,
    /// When a message is committed.
    #[arg(long, value_enum, default_value = "local-disk")]
    pub(crate) level: LevelArg,
    /// Who writes and syncs.
    #[arg(long, value_enum, default_value = "threads")]
    pub(crate) files: FilesArg,
    /// Threads of that, at most.
    #[arg(long, default_value_t = 4)]
    pub(crate) threads: u16,
    /// CPUs for those threads, such as 1,2; any if it is left out.
    #[arg(long, value_delimiter = ',')]
    pub(crate) file_cpus: Vec<u32>,
    /// What the core waits with: auto, uring or epoll.
    #[arg(long, default_value = "auto")]
    pub(crate) transport: String,
    /// MiB of a segment once the log has grown.
    #[arg(long, default_value_t = 64)]
    pub(crate) segment_mib: u64,
    /// Seconds to measure.
    #[arg(short = 'D', long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Pin the core to a CPU.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl LogAppendArgs {
    pub(crate) fn options(&self) -> Result<Options> {
        anyhow::ensure!(self.seconds > 0.0 && self.seconds <= 86_400.0, "-D: up to a day");
        anyhow::ensure!((1..=1024).contains(&self.partitions), "-n: 1 to 1024 partitions");
        anyhow::ensure!(self.size <= 16 << 20, "-s: at most 16 MiB");
        anyhow::ensure!((1..=4096).contains(&self.segment_mib), "--segment-mib: 1 to 4096");
        Ok(Options {
            directory: self.dir.clone(),
            partitions: self.partitions,
            payload_bytes: self.size,
            window: self.window,
            level: match self.level {
                LevelArg::Memory => Level::Memory,
                LevelArg::LocalDisk => Level::LocalDisk,
            },
            backend: match self.files {
                FilesArg::Threads => FileBackend::Threads,
                FilesArg::Ring => FileBackend::Ring,
            },
            threads: self.threads,
            cpus: self.file_cpus.clone(),
            transport: self.transport.parse::<TransportChoice>().context("--transport")?,
            segment_bytes: self.segment_mib << 20,
            time: Duration::from_secs_f64(self.seconds),
        })
    }
}
