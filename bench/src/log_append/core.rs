//! A core that does nothing but append: its turn is that of the broker, without clients.

use super::scratch::Scratch;
use super::{Figures, Options};
use anyhow::{Result, bail, ensure};
use ringlane_dataplane::batch::{BatchPool, Level, Parts};
use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::{CoreId, PartitionId};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::segments::{LogEnd, LogSetup};
use ringlane_dataplane::log::writer::{Admission, Writer};
use ringlane_dataplane::message::{MessageHead, MessageMeter};
use ringlane_dataplane::net::{Driver, Sockets, Wait};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::routing::CoreSet;
use ringlane_dataplane::time::Nanos;
use ringlane_transport_uring::{
    AnyDriver, FileConfig, TransportConfig, TransportKind, Wakers, open,
};
use std::time::{Duration, Instant, SystemTime};

/// Appends of a partition in one turn, at most, as a busy broker would have them.
const APPENDS_PER_TURN: u32 = 256;
const EVENTS_PER_TURN: usize = 256;
/// How long the log may take to come to rest.
const REST: Duration = Duration::from_secs(30);
const TOPIC: &str = "site/line/machine/sensor";
const CLIENT: &str = "publisher-0001";

#[derive(Debug)]
struct Log {
    partition: Partition<Nanos>,
    /// Appended and not committed.
    waiting: u32,
}

/// The core.
#[derive(Debug)]
pub(super) struct Core {
    driver: AnyDriver,
    sockets: Sockets,
    disk: Disk,
    pool: BatchPool,
    logs: Vec<Log>,
    payload: Vec<u8>,
    window: u32,
    level: Level,
    appends: bool,
    figures: Figures,
}

impl Core {
    pub(super) fn open(options: &Options, kind: TransportKind, scratch: &Scratch) -> Result<Self> {
        let files = FileConfig {
            backend: options.backend,
            threads: options.threads,
            cpus: options.cpus.clone(),
            ..FileConfig::default()
        };
        let config = TransportConfig { files: Some(files), ..TransportConfig::default() };
        let driver = open(kind, CoreId(0), &config, Vec::new(), Wakers::new(1)?)?;
        let logs: Result<Vec<Log>> =
            (0..options.partitions).map(|number| log(options, scratch, number)).collect();
        Ok(Self {
            driver,
            sockets: Sockets::new(0),
            disk: Disk::new(),
            pool: BatchPool::new(MessageMeter::leaked()),
            logs: logs?,
            payload: vec![0x5A; options.payload_bytes],
            window: options.window,
            level: options.level,
            appends: true,
            figures: Figures::default(),
        })
    }

    /// Turns until the time has come.
    pub(super) fn run_until(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            self.turn(until - Instant::now())?;
        }
        Ok(())
    }

    /// Appends no more, and turns until everything is durable and the logs say so.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.appends = false;
        let until = Instant::now() + REST;
        let is_quiet = |log: &Log| log.partition.log().is_some_and(Writer::is_quiet);
        while !self.logs.iter().all(|log| is_quiet(log) && log.waiting == 0) {
            ensure!(Instant::now() < until, "not durable after {REST:?}");
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Counts anew.
    pub(super) fn forget(&mut self) {
        self.figures = Figures::default();
    }

    pub(super) fn take_figures(&mut self) -> Figures {
        core::mem::take(&mut self.figures)
    }

    pub(super) fn segments(&self) -> usize {
        let of = |log: &Log| log.partition.log().map_or(0, |writer| writer.segments().count());
        self.logs.iter().map(of).sum()
    }

    pub(super) fn is_durable(&self) -> bool {
        self.logs.iter().all(|log| {
            let marks = log.partition.marks();
            marks.flushed == marks.accepted
        })
    }

    fn turn(&mut self, at_most: Duration) -> Result<()> {
        let now = self.driver.now();
        let unix_ms = unix_ms();
        let mut busy = false;
        for index in 0..self.logs.len() {
            // What was flushed makes room in the window first.
            self.commit(index, now);
            busy |= self.append(index, now, unix_ms);
            self.commit(index, now);
            self.logs[index].partition.end_turn(now, unix_ms, &mut self.disk);
        }
        self.driver.submit(&mut self.disk);
        self.driver.apply(&mut self.sockets, now);
        let wait = if busy { Wait::Poll } else { Wait::Until(self.deadline(now + at_most)) };
        self.driver.poll(&mut self.sockets, wait, EVENTS_PER_TURN, &mut |_, _| {})?;
        self.take_disk_events();
        self.check()
    }

    fn deadline(&self, latest: Nanos) -> Nanos {
        let of = |log: &Log| log.partition.log().map_or(Nanos::NEVER, Writer::next_deadline);
        self.logs.iter().map(of).fold(latest, Nanos::min)
    }

    /// Appends what the window and the log take; whether more could be appended at once.
    fn append(&mut self, index: usize, now: Nanos, unix_ms: u64) -> bool {
        let Self { logs, pool, payload, .. } = self;
        let log = &mut logs[index];
        let head = MessageHead {
            publisher: 1,
            accepted_at: now,
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 1,
            retain: false,
        };
        let parts = Parts {
            head,
            client_id: CLIENT.as_bytes(),
            packet_id: 0,
            unix_ms,
            topic: TOPIC,
            properties: &[],
            payload,
        };
        for _ in 0..APPENDS_PER_TURN {
            let has_window = self.window == 0 || log.waiting < self.window;
            let takes = log.partition.admission() == Admission::Open;
            if !self.appends || !has_window || !takes {
                return false;
            }
            log.partition.append(pool, &parts, self.level, Some(now));
            log.waiting += 1;
        }
        true
    }

    fn commit(&mut self, index: usize, now: Nanos) {
        let Self { logs, pool, figures, .. } = self;
        let log = &mut logs[index];
        while let Some(mut batch) = log.partition.take_committed() {
            while let Some(record) = batch.next_committed() {
                log.partition.commit(&batch, record, CoreSet::default());
                if let Some(appended) = batch.take_ack(record) {
                    figures.commit_latency.saturating_record(nanos(now.since(appended)));
                    figures.records += 1;
                    log.waiting -= 1;
                }
            }
            log.partition.finish(pool, batch);
        }
    }

    fn take_disk_events(&mut self) {
        let Self { driver, disk, logs, figures, .. } = self;
        let now = driver.now();
        let mut on_event = |disk: &mut Disk, event: DiskEvent| {
            let log = &mut logs[(event.token.0 >> 32) as usize];
            if let Some(flushed) = log.partition.on_disk(now, &event, disk) {
                figures.round_latency.saturating_record(nanos(flushed.took));
                figures.log_bytes += flushed.bytes;
            }
        };
        driver.complete(disk, EVENTS_PER_TURN, &mut on_event);
    }

    fn check(&self) -> Result<()> {
        for log in &self.logs {
            let Some(writer) = log.partition.log() else { continue };
            if let Some(fault) = writer.fault() {
                bail!("{}: {:?} failed: {}", fault.path.display(), fault.at, fault.error);
            }
            if let Some(error) = writer.full() {
                bail!("no room for a segment: {error}");
            }
        }
        Ok(())
    }
}

fn log(options: &Options, scratch: &Scratch, number: u32) -> Result<Log> {
    let setup = LogSetup {
        partition: PartitionId(number),
        directory: scratch.subdirectory(&format!("{number:04}"))?,
        directory_id: DirectoryId([7; 16]),
        epoch: 1,
        secret: [9; 16],
        segment_bytes: options.segment_bytes,
        record_bytes_max: options.payload_bytes as u64 + 1024,
        tag: number,
    };
    let writer = Writer::new(setup, LogEnd::default());
    Ok(Log { partition: Partition::with_log(PartitionId(number), writer), waiting: 0 })
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
