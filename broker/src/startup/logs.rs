//! The logs of all partitions, recovered before a core runs.
//!
//! Each partition's log is read by one of a few threads, which hands every record to the
//! partition's [`Replay`]. Nothing is appended before all logs are good and the new epoch is
//! durable; one that cannot be opened is an error that says what to do.

use super::StartError;
use super::manifest::DataDirectory;
use crate::config::Config;
use crate::system_random::random_bytes;
use ringlane_dataplane::disk::{StartFiles, TEMPORARY_SUFFIX};
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::log::format::{DirectoryId, partition_directory};
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::recovery::{Recovered, ReplayFrom, recover};
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::segments::LogSetup;
use ringlane_dataplane::log::writer::Writer;
use ringlane_transport_uring::StdFiles;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Partitions that are recovered at the same time, at most: the disk is shared.
const THREADS_MAX: usize = 8;
/// How often a long recovery says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Records between two looks at the clock.
const PROGRESS_RECORDS: u64 = 1 << 16;
/// What the largest record takes beside the packet that it came in: its head, and room for what
/// is only in records of state.
const RECORD_SLACK_BYTES: u64 = 4096;
/// Bytes of the largest records of state, whatever the largest packet is.
const STATE_RECORD_BYTES: u64 = 256 * 1024;

/// What is made of the records of one partition.
pub trait Replay: Send {
    /// Where the first record is that is wanted; `None` for all that there are.
    fn from(&self) -> Option<ReplayFrom>;

    /// The next record, in the order of offsets.
    fn on_record(&mut self, record: &Record<'_>);
}

/// A partition whose log is open.
#[derive(Debug)]
pub struct RecoveredLog<R> {
    /// Which one.
    pub partition: PartitionId,
    /// Its directory.
    pub directory: PathBuf,
    /// What its log holds.
    pub log: Recovered,
    /// What its records came to.
    pub replay: R,
}

/// Opens the log of every partition.
///
/// # Errors
/// The first log that cannot be opened, with what to do. Logs that come before it may have had
/// their torn tails cut.
pub fn recover_all<R: Replay>(
    data: &DataDirectory,
    replay: impl Fn(PartitionId, &Path) -> Result<R, StartError> + Sync,
) -> Result<Vec<RecoveredLog<R>>, StartError> {
    let partitions = data.manifest.partitions;
    let root = data.path().join("partitions");
    StdFiles
        .make_directory(&root)
        .map_err(|error| StartError::system("make partitions/", error))?;
    let (started, next, read) = (Instant::now(), AtomicU32::new(0), AtomicU64::new(0));
    let one = |number: u32| -> Result<RecoveredLog<R>, StartError> {
        let partition = PartitionId(number);
        let directory = data.path().join(partition_directory(partition));
        prepare(&directory)?;
        let mut replay = replay(partition, &directory)?;
        let owner = LogOwner { directory: DirectoryId(data.manifest.id), partition };
        let mut progress = Progress { said: started, records: 0, read: &read };
        let from = replay.from();
        let log = recover(&mut StdFiles, &directory, &owner, from.as_ref(), &mut |record| {
            progress.step(partition);
            replay.on_record(record);
        })
        .map_err(|error| StartError::Log { partition: number, error: Box::new(error) })?;
        tell(partition, &log);
        Ok(RecoveredLog { partition, directory, log, replay })
    };
    let work = || -> Result<Vec<RecoveredLog<R>>, StartError> {
        let mut opened = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if partitions <= number {
                return Ok::<_, StartError>(opened);
            }
            opened.push(one(number)?);
        }
    };
    let threads = THREADS_MAX.min(partitions as usize);
    let mut opened = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut opened = Vec::new();
        for worker in workers {
            opened.extend(worker.join().expect("recovery does not panic")?);
        }
        Ok::<_, StartError>(opened)
    })?;
    opened.sort_by_key(|log| log.partition);
    tell_all(&opened, started.elapsed());
    Ok(opened)
}

/// How far one thread is.
struct Progress<'a> {
    said: Instant,
    records: u64,
    read: &'a AtomicU64,
}

impl Progress<'_> {
    fn step(&mut self, partition: PartitionId) {
        self.records += 1;
        if !self.records.is_multiple_of(PROGRESS_RECORDS) {
            return;
        }
        let all = self.read.fetch_add(PROGRESS_RECORDS, Ordering::Relaxed) + PROGRESS_RECORDS;
        if PROGRESS_EVERY <= self.said.elapsed() {
            self.said = Instant::now();
            info!(partition = partition.0, records = all, "reading the logs");
        }
    }
}

/// Makes a partition's directory, and removes what a crash left half made.
fn prepare(directory: &Path) -> Result<(), StartError> {
    let system = |what: &'static str| move |error: io::Error| StartError::system(what, error);
    StdFiles.make_directory(directory).map_err(system("make a partition's directory"))?;
    let names = StdFiles.list(directory).map_err(system("list a partition's directory"))?;
    let left = names.iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX));
    let left: Vec<PathBuf> = left.map(|name| directory.join(name)).collect();
    StdFiles.remove(&left).map_err(system("remove a temporary file"))
}

fn tell(partition: PartitionId, log: &Recovered) {
    if let Some(torn) = &log.torn {
        warn!(
            partition = partition.0, file = %torn.path.display(), position = torn.position,
            bytes = torn.bytes,
            "the end of a log was not whole, as after a crash, and was cut: nothing of it was \
             acknowledged"
        );
    }
    if !log.trimmed_again.is_empty() {
        info!(
            partition = partition.0,
            segments = log.trimmed_again.len(),
            "segments that had been trimmed were there again, and were removed"
        );
    }
}

fn tell_all<R>(opened: &[RecoveredLog<R>], took: Duration) {
    let records: u64 = opened.iter().map(|log| log.log.records).sum();
    let kept: u64 = opened.iter().map(|log| log.log.next_offset.0 - log.log.log_start.0).sum();
    let torn = opened.iter().filter(|log| log.log.torn.is_some()).count();
    info!(partitions = opened.len(), records, kept, torn, ?took, "logs recovered");
}

/// What all logs of a start have in common.
#[derive(Clone, Copy, Debug)]
pub struct LogFacts {
    directory_id: DirectoryId,
    secret: [u8; 16],
    segment_bytes: u64,
    record_bytes_max: u64,
}

impl LogFacts {
    /// The facts of a start. Before the first record is appended its epoch has to be durable.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn new(config: &Config, data: &DataDirectory) -> Result<Self, StartError> {
        let packet_bytes_max = config.mqtt.max_packet_size.max(config.mqtt.max_connect_size);
        let facts = Self {
            directory_id: DirectoryId(data.manifest.id),
            secret: [0; 16],
            segment_bytes: config.commit_log.segment_size,
            record_bytes_max: u64::from(packet_bytes_max)
                + u64::from(config.mqtt.max_client_id_length)
                // The record has the topic in full where the packet had an alias.
                + u64::from(config.mqtt.max_topic_length)
                + RECORD_SLACK_BYTES.max(STATE_RECORD_BYTES),
        };
        facts.with_new_secret()
    }

    /// The same for a log whose end was cut: numbers of segments are used again there, identities
    /// are not.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn with_new_secret(self) -> Result<Self, StartError> {
        let secret = random_bytes().map_err(|error| StartError::system("draw a secret", error))?;
        Ok(Self { secret, ..self })
    }

    /// Bytes of the largest record.
    #[must_use]
    pub fn record_bytes_max(&self) -> u64 {
        self.record_bytes_max
    }

    /// The writer that goes on in `epoch` where a log ends. `tag` is what its tokens carry.
    #[must_use]
    pub fn writer(
        &self,
        partition: PartitionId,
        directory: PathBuf,
        log: &Recovered,
        epoch: u64,
        tag: u32,
    ) -> Writer {
        Writer::new(self.setup(partition, directory, epoch, tag), log.log_end())
    }

    /// What a log needs to know of where it is.
    pub(crate) fn setup(
        &self,
        partition: PartitionId,
        directory: PathBuf,
        epoch: u64,
        tag: u32,
    ) -> LogSetup {
        LogSetup {
            partition,
            directory,
            directory_id: self.directory_id,
            epoch,
            secret: self.secret,
            segment_bytes: self.segment_bytes,
            record_bytes_max: self.record_bytes_max,
            tag,
        }
    }
}
