//! Files: the second seam that a core's driver implements, beside its sockets.
//!
//! Writes, syncs and reads go to the core's own ring, or to I/O threads where there is none or the
//! configuration says so. Jobs, which make, open, close and remove files, go to one more thread per
//! core. All these threads, those of the kernel included, run on CPUs that no core has. What ended
//! comes back through a queue and the core's waker.

mod beside;
mod files;
mod inbox;
mod jobs;
mod line;
mod open;
mod operation;
mod paths;
mod ring;
mod start;
mod threads;

pub(crate) use files::Files;
pub(crate) use ring::{RingOperation, RingStep};
pub use start::StdFiles;

use std::time::Duration;

/// Who writes, syncs and reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FileBackend {
    /// Threads of this program.
    #[default]
    Threads,
    /// The core's own ring, whose kernel threads do what would block; threads of this program
    /// where the sockets are on epoll.
    Ring,
}

/// How a core uses files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileConfig {
    /// Who writes, syncs and reads.
    pub backend: FileBackend,
    /// I/O threads of a core, or kernel threads of its ring at most: 1 to 16. One of our own
    /// threads does all for the files that it has, so that a slow file delays those that share it.
    pub threads: u16,
    /// The CPUs that these threads run on. Empty: those of the thread that opens the driver.
    pub cpus: Vec<u32>,
    /// How long a thread of our own that writes waits awake for the next write, where the last one
    /// came as soon. Zero where it would take the CPU from its core.
    pub spin: Duration,
}

impl Default for FileConfig {
    fn default() -> Self {
        let (backend, spin) = (FileBackend::default(), Duration::ZERO);
        Self { backend, threads: 4, cpus: Vec::new(), spin }
    }
}
