//! A core's driver with files under test, and a directory that goes with it.

#![allow(unreachable_pub, reason = "a module of each test file")]
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

use ringlane_dataplane::disk::{
    BLOCK_BYTES, BatchWrite, Disk, DiskCommand, DiskDone, DiskError, DiskToken, FileDriver, FileId,
    FileJob,
};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::net::{Driver, Sockets, Wait};
use ringlane_transport_uring::{
    AnyDriver, FileBackend, FileConfig, TransportConfig, TransportKind, Wakers, open,
};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a command may take: on a failing disk each block of a large write is tried by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// What is under test: the sockets' side and the files' side.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub transport: TransportKind,
    pub backend: FileBackend,
}

/// Makes three tests of each function: one per way of doing files that there is.
#[macro_export]
macro_rules! on_all_files {
    ($($name:ident),* $(,)?) => {
        mod in_the_ring {
            $(#[test] fn $name() {
                super::support::run_on_io_uring(|transport| {
                    let backend = ringlane_transport_uring::FileBackend::Ring;
                    super::$name(super::files::Kind { transport, backend });
                });
            })*
        }
        mod on_threads_beside_io_uring {
            $(#[test] fn $name() {
                super::support::run_on_io_uring(|transport| {
                    let backend = ringlane_transport_uring::FileBackend::Threads;
                    super::$name(super::files::Kind { transport, backend });
                });
            })*
        }
        mod on_threads_beside_epoll {
            $(#[test] fn $name() {
                let transport = ringlane_transport_uring::TransportKind::Epoll;
                let backend = ringlane_transport_uring::FileBackend::Ring;
                super::$name(super::files::Kind { transport, backend });
            })*
        }
    };
}

/// A directory of its own for a test, removed with it.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub fn within(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ringlane-files-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One core that does nothing but files.
pub struct FileRig {
    pub driver: AnyDriver,
    pub disk: Disk,
    /// How much a turn takes.
    pub events_max: usize,
    sockets: Sockets,
    next: u64,
    ended: HashMap<DiskToken, Result<DiskDone, DiskError>>,
}

impl FileRig {
    pub fn new(kind: Kind) -> Self {
        Self::with(kind, FileConfig::default())
    }

    pub fn with(kind: Kind, config: FileConfig) -> Self {
        let files = Some(FileConfig { backend: kind.backend, ..config });
        let config = TransportConfig { files, ..TransportConfig::default() };
        let wakers = Wakers::new(1).unwrap();
        let driver = open(kind.transport, CoreId(0), &config, Vec::new(), wakers).unwrap();
        let (disk, sockets) = (Disk::new(), Sockets::new(0));
        Self { driver, disk, events_max: 64, sockets, next: 0, ended: HashMap::new() }
    }

    /// Gives a command; its token.
    pub fn push(&mut self, command: impl FnOnce(DiskToken) -> DiskCommand) -> DiskToken {
        let token = DiskToken(self.next);
        self.next += 1;
        self.disk.push(command(token));
        token
    }

    pub fn push_job(&mut self, job: FileJob) -> DiskToken {
        self.push(|token| DiskCommand::Job { token, job })
    }

    /// One turn that sleeps until something ends, as a core does.
    pub fn turn(&mut self) {
        self.driver.submit(&mut self.disk);
        let Self { driver, disk, events_max, sockets, ended, .. } = self;
        let now = driver.now();
        driver.apply(sockets, now);
        let wait = Wait::Until(driver.now() + Duration::from_secs(10));
        driver.poll(sockets, wait, 64, &mut |_, _| {}).unwrap();
        driver.complete(disk, *events_max, &mut |_, event| {
            let before = ended.insert(event.token, event.result);
            assert!(before.is_none(), "each command ends once");
        });
    }

    /// Waits for what came of a command.
    pub fn wait(&mut self, token: DiskToken) -> Result<DiskDone, DiskError> {
        let until = Instant::now() + PATIENCE;
        while !self.ended.contains_key(&token) {
            assert!(Instant::now() < until, "{token:?} does not end");
            self.turn();
        }
        self.ended.remove(&token).unwrap()
    }

    pub fn job(&mut self, job: FileJob) -> Result<DiskDone, DiskError> {
        let token = self.push_job(job);
        self.wait(token)
    }

    pub fn create(&mut self, path: &Path, bytes: u64) -> Result<FileId, DiskError> {
        let file = self.disk.open_id();
        let job = FileJob::Create { file, path: path.to_owned(), header: vec![9; 4096], bytes };
        self.job(job).map(|_| file)
    }

    pub fn push_write(
        &mut self,
        file: FileId,
        position: u64,
        batches: Vec<BatchWrite>,
    ) -> DiskToken {
        self.push_write_of(file, position, batches, (0, true))
    }

    /// A write of what nobody reads soon, with zeros up to the end of a block.
    pub fn push_write_beside(
        &mut self,
        file: FileId,
        position: u64,
        batches: Vec<BatchWrite>,
    ) -> DiskToken {
        let end = position + batches.iter().map(|batch| batch.bytes() as u64).sum::<u64>();
        let zeros = (end.next_multiple_of(BLOCK_BYTES as u64) - end) as u32;
        self.push_write_of(file, position, batches, (zeros, false))
    }

    fn push_write_of(
        &mut self,
        file: FileId,
        position: u64,
        batches: Vec<BatchWrite>,
        (zeros, is_read_soon): (u32, bool),
    ) -> DiskToken {
        self.push(|token| DiskCommand::Write {
            token,
            file,
            position,
            batches,
            zeros,
            is_read_soon,
        })
    }

    pub fn write_beside(
        &mut self,
        file: FileId,
        position: u64,
        batches: Vec<BatchWrite>,
    ) -> Result<DiskDone, DiskError> {
        let token = self.push_write_beside(file, position, batches);
        self.wait(token)
    }

    pub fn write(
        &mut self,
        file: FileId,
        position: u64,
        batches: Vec<BatchWrite>,
    ) -> Result<DiskDone, DiskError> {
        let token = self.push_write(file, position, batches);
        self.wait(token)
    }

    pub fn read(&mut self, file: FileId, position: u64, bytes: u32) -> Result<DiskDone, DiskError> {
        let token = self.push(|token| DiskCommand::Read { token, file, position, bytes });
        self.wait(token)
    }
}

/// A batch that is a header alone.
pub fn header(byte: u8) -> BatchWrite {
    BatchWrite { header: [byte; 64], batch: None }
}

/// Batches that are headers alone, each with another byte.
pub fn headers(count: usize) -> Vec<BatchWrite> {
    (0..count).map(|number| header(number as u8)).collect()
}
